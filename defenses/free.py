"""Free adversarial training (Shafahi et al., 2019): one backward pass for the weights and for the images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, UsageError, defense, fit, ranks
from defenses.inner import Radius

COURSE = Course(epochs=10, lr=0.04, schedule="triangle", rate_by="step", peak=0.5, drops=())


@defense(paper="arXiv:1904.12843", version=1)
def free(
    job: TrainJob, *, replays: int = 8, radius: Radius = Radius(), course: Course = COURSE
) -> nn.Module:  # fmt: skip
    """Each batch is used `replays` times; every gradient moves the weights and a perturbation that is never reset.

    The perturbation goes over from batch to batch, with a step of eps.  An epoch is `replays` passes over the data.
    github.com/mahyarnajibi/FreeAdversarialTraining.
    """
    if replays < 1:
        raise UsageError(f"replays={replays}: expected 1 or more")
    if ranks() > 1:
        raise UsageError(f"free keeps a perturbation for each place of a batch; expected 1 process, not {ranks()}")
    size = (course.batch, job.shape.channels, job.shape.size, job.shape.size)
    kept = nn.Module()
    kept.register_buffer("delta", torch.zeros(size, device=job.device))
    last: list[Tensor] = []

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        last[:] = [kept.get_buffer("delta")[: len(feed)].clone().requires_grad_()]
        return F.cross_entropy(model((feed.x + last[0]).clamp(0, 1)), feed.y)

    def move(_model: nn.Module, feed: Batch) -> None:
        delta, threat = last[0].detach(), radius.threat(job.threat, feed)
        assert last[0].grad is not None
        x_adv = feed.x + delta + float(threat.eps) * threat.uphill(last[0].grad)
        kept.get_buffer("delta")[: len(feed)] = threat.project(x_adv, feed.x) - feed.x

    return fit(job, job.net(), loss, course, after_step=move, also={"free": kept}, replays=replays)
