"""Weights of images in a loss: what the reweighting methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench import sum_over_ranks

if TYPE_CHECKING:
    from bench import TrainJob

Weigh = Callable[[Tensor, Tensor], Tensor]  # logits of x and of x' (B, K) to the weights of the images (B,)


def balanced(w: Tensor) -> Tensor:
    """Weights (B,) whose mean over the whole batch is 1."""
    images, total = sum_over_ranks(torch.stack([w.new_tensor(len(w)), w.sum()]))
    found: Tensor = w * images / total.clamp(min=1e-12)
    return found


def watch(job: TrainJob, w: Tensor, y: Tensor) -> None:
    """Put the weights (B,) of images with labels y into the history: their mean, and their sum for each class."""
    job.watch("weight_mean", w)
    job.watch("weight_by_class", w, y)
