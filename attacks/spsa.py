"""SPSA: Adam on slopes that are estimated from differences of scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.losses import margin, misread
from attacks.pgd import select
from bench import Draws, Model, ThreatModel, attack

VALUES = 2**22  # pixels of random directions that are drawn, and asked about, in one call
MEMORY = (0.9, 0.999)  # Adam's shares of the running means of slopes and of their squares
# Random directions of some pairs: Draws whose step is a range of pairs, to (n, pairs, C, H, W).
Directions = Callable[[Draws], Tensor]


def _cost(steps: int, pairs: int, keep: str, **_: object) -> tuple[int, int]:
    """keep="any" also asks about every image that it steps from; the judge asks about the last one."""
    return steps * (2 * pairs + (keep == "any")), 0


@attack(norms=("linf",), access="scores", paper="arXiv:1802.05666", version=1, cost=_cost)
def spsa(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 100,
    pairs: int = 256,
    size: float = 0.001,
    lr: float = 0.01,
    keep: Literal["last", "any"] = "last",
) -> Tensor:
    """Adam up the margin, whose slope is estimated along random sign directions; starts at x.

    arXiv:1802.05666.  Access: scores.  Linf.
    A step asks about now + size * v and now - size * v for `pairs` sign vectors v, drawn for each image alone, and
    takes an Adam step of lr (pixels) on the mean of (difference / (2 size)) v; then it projects.  These questions may
    leave ball and box by `size`; the images never do.
    keep="last" (LAST): the last image is judged, as libraries do.  keep="any" (ANY): an image stops at the first
    misread image that it steps from, x included, and each is asked about once more for that.
    "256 samples" is read as 256 pairs, 512 questions a step; pairs=128 is the other reading, 256 questions.
    Cost: steps * 2 pairs forwards, with keep="any" steps * (2 pairs + 1): 51,200 an image by default.
    """
    if not threat.eps:
        return x
    found = x.clone()
    search = _Search(
        model=model, draws=draws.at("probe"), rows=torch.arange(len(x), device=x.device), x=x, y=y,
        now=x, mean=torch.zeros_like(x), square=torch.zeros_like(x),
    )  # fmt: skip
    for step in range(steps):
        if keep == "any" and (fell := misread(search.model(search.now), search.y)).any():
            found[search.rows[fell]] = search.now[fell]
            if fell.all():
                return found
            search = select(search, ~fell)
        places = range(step * pairs, (step + 1) * pairs)
        slope = differences(search.model, search.now, search.y, search.draws, places, size, _signs_like(x))
        _adam(search, slope / (2 * size * pairs), step + 1, lr)
        search.now = threat.project(search.now, search.x)
    found[search.rows] = search.now
    return found


@dataclass
class _Search:
    """Where the search stands on each image that has not fallen."""

    model: Model
    draws: Draws
    rows: Tensor  # (n,) places among the images attacked
    x: Tensor
    y: Tensor
    now: Tensor
    mean: Tensor  # Adam's running means of the slope and of its square
    square: Tensor


def _adam(search: _Search, slope: Tensor, step: int, lr: float) -> None:
    """The step of this number, counted from 1, uphill."""
    first, second = MEMORY
    search.mean = first * search.mean + (1 - first) * slope
    search.square = second * search.square + (1 - second) * slope.square()
    spread = (search.square / (1 - second**step)).sqrt() + 1e-8
    search.now = search.now + lr * (search.mean / (1 - first**step)) / spread


def differences(
    model: Model, now: Tensor, y: Tensor, draws: Draws, places: range, size: float, directions: Directions,
    confine: Callable[[Tensor], Tensor] = lambda asked: asked,
) -> Tensor:  # fmt: skip
    """Sum over pairs of (margin at now + size v - margin at now - size v) v: shaped as `now`.

    places: the pairs' numbers, by which their directions are drawn.  confine: what to do to images
    (pairs, n, C, H, W) before they are asked about.  A difference that is not a number counts as zero.
    """
    total = torch.zeros_like(now)
    many = max(VALUES // now.numel(), 1)
    for begin in range(places.start, places.stop, many):
        drawn = directions(draws.at(step=range(begin, min(begin + many, places.stop))))
        v = drawn.transpose(0, 1)  # (pairs, n, C, H, W)
        asked = torch.cat([confine(now + size * v), confine(now - size * v)])
        value = margin(model(asked.flatten(0, 1)), y.repeat(len(asked))).view(2, len(v), len(now))
        gained = (value[0] - value[1]).nan_to_num(0, 0, 0)
        # One after another, since a sum's order of adding may depend on the batch.
        for pair in range(len(v)):
            total = total + gained[pair].view(-1, 1, 1, 1) * v[pair]
    return total


def signs(draws: Draws, *shape: int) -> Tensor:
    """-1 or +1, evenly, one for every bit that is drawn: float32 (n, [steps,] *shape)."""
    count = math.prod(shape)
    words = draws.bits((count + 31) // 32)
    shifts = torch.arange(0, 32, 8, device=words.device)
    eighths = (words.unsqueeze(-1) >> shifts) & 255
    places = torch.arange(8, device=words.device)
    table = ((torch.arange(256, device=words.device)[:, None] >> places) & 1).float() * 2 - 1
    return table[eighths].flatten(words.ndim - 1)[..., :count].reshape(*words.shape[:-1], *shape)


def _signs_like(x: Tensor) -> Directions:
    """Sign vectors of the images' shape."""
    return lambda draws: signs(draws, *x.shape[1:])
