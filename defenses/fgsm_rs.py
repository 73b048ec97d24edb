"""FGSM with a random start: fast adversarial training (Wong et al., 2020)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, defense, fit
from defenses.inner import Inner, craft

COURSE = Course(epochs=15, lr=0.2, schedule="triangle", rate_by="step", peak=0.5, drops=())


@defense(paper="arXiv:2001.03994", version=1)
def fgsm_rs(
    job: TrainJob, *, inner: Inner = Inner(steps=1, step=1.25, bn="train"), course: Course = COURSE
) -> nn.Module:
    """Adversarial training with one long step from a uniform start.

    It may collapse: from one epoch to the next the model is robust to one step and to nothing else.  The history notes
    it; collapse='stop' keeps the weights before.  github.com/locuslab/fast_adversarial.
    """

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        return F.cross_entropy(model(craft(model, feed, job.threat, inner)), feed.y)

    return fit(job, job.net(), loss, course)
