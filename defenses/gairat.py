"""GAIRAT: geometry-aware instance-reweighted adversarial training (Zhang et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, UsageError, defense, fit
from defenses.inner import Inner, craft
from defenses.weights import balanced, watch

COURSE = Course(epochs=120, decay=2e-4, drops=(60, 90, 110), falls=(0.1, 0.01, 0.005))


@defense(paper="arXiv:2010.01736", version=1)
def gairat(
    job: TrainJob, *, shift: float = -1.0, first: int = 60, inner: Inner = Inner(), course: Course = COURSE
) -> nn.Module:
    """Adversarial training that weighs an image by how few steps of the attack lead over the boundary.

    shift: the paper's Lambda (very large: plain adversarial training).  first: the first epoch with weights.
    The defaults are those of the authors' WRN-32-10.  Known to mask gradients: look at aa, not at pgd-20.
    github.com/zjfheart/Geometry-aware-Instance-reweighted-Adversarial-Training.
    """
    if inner.steps < 2:
        raise UsageError(f"steps={inner.steps}: GAIRAT counts the steps of its attack; expected 2 or more")

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        kappa = torch.zeros_like(feed.y)

        def count(logits: Tensor) -> None:
            kappa.add_(logits.argmax(1) == feed.y)

        x_adv = craft(model, feed, job.threat, inner, see=count)
        losses = F.cross_entropy(model(x_adv), feed.y, reduction="none")
        if feed.epoch < first:
            return losses.mean()
        w = balanced(geometry(kappa, inner.steps, shift))
        watch(job, w, feed.y)
        return (w * losses).mean()

    return fit(job, job.net(), loss, course)


def geometry(kappa: Tensor, steps: int, shift: float) -> Tensor:
    """(1 + tanh(Lambda + 5 (1 - 2 kappa / K))) / 2, where kappa iterates before the last were classified rightly."""
    half = steps // 2
    return (1 + torch.tanh(shift + 5 * (half - kappa) / half)) / 2
