"""SignHunter: halving search for the signs of the gradient, by scores alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.losses import margin, misread
from attacks.pgd import select
from bench import Draws, Model, ThreatModel, attack


@attack(norms=("linf",), access="scores", paper="arXiv:1902.06894", version=1, cost=lambda queries: (1 + queries, 0))
def signhunter(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, queries: int = 5000) -> Tensor:
    """Flip the signs of all values, of halves, of quarters, ..., and keep a flip where the margin does not rise.

    arXiv:1902.06894.  Access: scores.  Linf.  ANY: an image stops at its first misread query.  No randomness.
    The first image is x + eps; a query flips one block of consecutive values (of the flattened image) and is clipped
    to [0, 1].  After the blocks of one value the search begins again around the image reached, with the signs that it
    has: a flip then takes a block back to x, or from there to the other side.
    Cost: 1 + queries forwards; `queries` are those after the first image, as in `square`.
    """
    if not threat.eps:
        return x
    found, shape = x.clone(), x.shape[1:]
    flips = blocks(math.prod(shape))
    search = _Search(
        model=model, rows=torch.arange(len(x), device=x.device), x=x, y=y,
        around=x, signs=torch.ones_like(x), best=x, value=x.new_full((len(x),), -torch.inf),
    )  # fmt: skip
    block = slice(0, 0)
    for query in range(queries + 1):
        if query:
            begins, block = next(flips)
            if begins:
                search.around = search.best
        signs = search.signs.flatten(1).clone()
        signs[:, block] *= -1
        signs = signs.view_as(search.x)
        new = threat.project(search.around + float(threat.eps) * signs, search.x)
        logits = search.model(new)
        fell = misread(logits, search.y)
        if fell.any():
            found[search.rows[fell]] = new[fell]
            if fell.all():
                return found
            search, new, signs, logits = select(search, ~fell), new[~fell], signs[~fell], logits[~fell]
        value = margin(logits, search.y)
        kept = value >= search.value
        search.value = torch.where(kept, value, search.value)
        search.signs = torch.where(kept.view(-1, 1, 1, 1), signs, search.signs)
        search.best = torch.where(kept.view(-1, 1, 1, 1), new, search.best)
    found[search.rows] = search.best
    return found


@dataclass
class _Search:
    """Where the search stands on each image that has not fallen."""

    model: Model
    rows: Tensor  # (n,) places among the images attacked
    x: Tensor
    y: Tensor
    around: Tensor  # where the signs are taken from
    signs: Tensor
    best: Tensor  # the image reached, and its margin loss (n,)
    value: Tensor


def blocks(count: int) -> Iterator[tuple[bool, slice]]:
    """Blocks of `count` values without end: all, halves, quarters, ..., one; and whether the search begins again."""
    again = False
    while True:
        for level in range(math.ceil(math.log2(count)) + 1):
            length = math.ceil(count / 2**level)
            for start in range(0, count, length):
                yield again and not level, slice(start, start + length)
        again = True
