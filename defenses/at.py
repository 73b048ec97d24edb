"""Adversarial training by PGD (Madry et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, UsageError, defense, fit
from defenses.inner import Inner, craft


@defense(paper="arXiv:1706.06083", version=2)
def at(
    job: TrainJob, *, mix: float = 0.0, clean_pass: bool = False, inner: Inner = Inner(), course: Course = Course()
) -> nn.Module:
    """Cross-entropy on adversarial images.

    mix: the share of the loss on clean images (0: none).  clean_pass: after each step pass the clean batch in training
    mode, as Rice et al. (2020) do for their log: it moves the batch statistics.  The defaults of the course are those
    of Pang et al. (2021), "Bag of tricks for adversarial training"; the presets have the papers' recipes.
    """
    if not 0 <= mix <= 1:
        raise UsageError(f"mix={mix}: expected the share of the loss on clean images, from 0 to 1")

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        robust = F.cross_entropy(model(craft(model, feed, job.threat, inner)), feed.y)
        return robust if not mix else mix * F.cross_entropy(model(feed.x), feed.y) + (1 - mix) * robust

    def after(model: nn.Module, feed: Batch) -> None:
        if clean_pass:
            look(model, feed)

    return fit(job, job.net(), loss, course, after_step=after)


@torch.no_grad()
def look(model: nn.Module, feed: Batch) -> None:
    """Pass the clean batch for the batch statistics alone."""
    model(feed.x)
