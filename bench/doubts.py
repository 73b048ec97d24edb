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
    """Doubts from three passes over the first tile of x (N, C, H, W): all of it twice, then half in reversed order.

    Half, so that the others are not beside it: a model that takes statistics of the batch would not mind the order.
    """
    if subject.random:
        return []
    x = x[: subject.tile]
    model = Victim(subject.module, tile=subject.tile, access="scores", images=len(x))
    half = x[: (len(x) + 1) // 2]
    first, again, apart = (z.nan_to_num() for z in (model(x), model(x), model(half.flip(0)).flip(0)))
    if not torch.equal(first, again):
        return [FICKLE]
    return [] if torch.equal(first[: len(half)], apart) else [MIXES]
