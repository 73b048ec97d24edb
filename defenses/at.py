"""Adversarial training by PGD (Madry et al., 2018)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from bench import Augment, Batch, ThreatModel, TrainJob, defense, fit
from defenses.inner import ascend, ramped


@defense(paper="arXiv:1706.06083", version=1)
def at(
    job: TrainJob, *, steps: int = 10, step: float = 0.25, epochs: int = 110, lr: float = 0.1, decay: float = 5e-4,
    batch: int = 128, drops: tuple[int, ...] = (100, 105), ramp: float = 0.0, augment: Augment = "none",
) -> nn.Module:  # fmt: skip
    """Cross-entropy on adversarial images alone; `step` is a share of eps, `ramp` the epochs over which eps grows.

    The attack starts uniformly in the ball, clipped, with batch normalisation in eval mode.  The defaults of the
    schedule are those of Pang et al. (2021), "Bag of tricks for adversarial training".
    """

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        threat = ramped(job.threat, feed, ramp)
        return F.cross_entropy(model(madry(model, feed, threat, steps=steps, step=step)), feed.y)

    return fit(
        job, job.net(), loss,
        epochs=epochs, lr=lr, decay=decay, batch=batch, drops=drops, augment=augment,
    )  # fmt: skip


def madry(model: nn.Module, feed: Batch, threat: ThreatModel, *, steps: int, step: float) -> Tensor:
    """PGD on the cross-entropy from a uniform start, last iterate: (B, C, H, W)."""
    return ascend(
        model, threat.random(feed.x, feed.draws.at("start")),
        lambda logits: F.cross_entropy(logits, feed.y, reduction="sum"),
        uphill=threat.uphill, project=partial(threat.project, x=feed.x), step=step * float(threat.eps), steps=steps,
    )  # fmt: skip
