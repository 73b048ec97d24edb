"""Weights of images in a loss: what the reweighting methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from bench import TrainJob

Weigh = Callable[[Tensor, Tensor], Tensor]  # logits of x and of x' (B, K) to the weights of the images (B,)


def balanced(w: Tensor) -> Tensor:
    """Weights (B,) whose mean is 1."""
    return w * len(w) / w.sum().clamp(min=1e-12)


def watch(job: TrainJob, w: Tensor, y: Tensor) -> None:
    """Put the weights (B,) of images with labels y into the history: their mean, and their sum for each class."""
    job.watch("weight_mean", w)
    job.watch("weight_by_class", w, y)
