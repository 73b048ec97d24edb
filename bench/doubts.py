"""Reasons to distrust a number, in words that a person understands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.victim import Victim

if TYPE_CHECKING:
    from bench.evaluate import Subject

FICKLE = "the model answers differently when asked again: it is random and does not say so, or changes between calls"
MIXES = "the model's answer to an image depends on the images beside it"


def doubts_of(subject: Subject, x: Tensor) -> list[str]:
    """Doubts from three passes over the first tile of x (N, C, H, W): the same again, then in reversed order."""
    if subject.random:
        return []
    x = x[: subject.tile]
    model = Victim(subject.module, tile=subject.tile, access="scores", images=len(x))
    first, again, reversed_ = (z.nan_to_num() for z in (model(x), model(x), model(x.flip(0)).flip(0)))
    if not torch.equal(first, again):
        return [FICKLE]
    return [] if torch.equal(first, reversed_) else [MIXES]
