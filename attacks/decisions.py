"""What attacks by labels alone share: questions within a budget, the nearest misread image, a start and a bisection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from attacks.losses import misread
from attacks.pgd import select
from bench import Draws, Model, ThreatModel

HALVINGS = 40  # of a bisection or a step, at most: finer than images in float32 can be
FIELDS = 4  # a side, of coarse noise
START = 0.001  # how near the boundary a start is brought, as a share of its way to the image


@dataclass
class Hunt:
    """Where a search by labels stands on each image that is not done."""

    model: Model
    draws: Draws
    rows: Tensor  # (n,) places among the images attacked
    x: Tensor
    y: Tensor
    nearest: Tensor  # the nearest misread image asked about, and its distance (n,) in float64, infinite without one
    size: Tensor
    left: Tensor  # (n,) questions that may still be asked

    def ask(self, threat: ThreatModel, images: Tensor, who: Tensor) -> Tensor:
        """Whether each image is misread: (n,) bool; False, unasked, where `who` is not set or nothing is left."""
        asked = (who & (self.left > 0)).nonzero()[:, 0]
        hit = torch.zeros_like(who)
        if len(asked):
            fell = misread(self.model[asked](images[asked]), self.y[asked])
            self.left[asked] -= 1
            self._remember(threat, images[asked[fell]], asked[fell])
            hit[asked] = fell
        return hit

    def probe(self, images: Tensor) -> Tensor:
        """Whether images (k, n, C, H, W) are misread, none of which is kept: (k, n) bool; k questions must be left."""
        asked = len(images)
        fell = misread(self.model(images.flatten(0, 1)), self.y.repeat(asked)).view(asked, -1)
        self.left -= asked
        return fell

    def _remember(self, threat: ThreatModel, images: Tensor, rows: Tensor) -> None:
        """Keep misread images where they are nearer than the nearest so far."""
        if len(rows):
            size = threat.size(images.double() - self.x[rows].double())
            closer = size < self.size[rows]
            self.nearest[rows[closer]], self.size[rows[closer]] = images[closer], size[closer]


S = TypeVar("S", bound=Hunt)


def begin(model: Model, x: Tensor, y: Tensor, draws: Draws, queries: int) -> Hunt:
    """Nothing asked yet."""
    infinite = torch.full((len(x),), torch.inf, dtype=torch.double, device=x.device)
    return Hunt(
        model=model, draws=draws, rows=torch.arange(len(x), device=x.device), x=x, y=y,
        nearest=x.clone(), size=infinite, left=torch.full_like(y, queries),
    )  # fmt: skip


def leave(hunt: S, found: Tensor, stays: Tensor) -> S:
    """The search on the images that stay; what the others found is put in its place."""
    if stays.all():
        return hunt
    found[hunt.rows[~stays]] = hunt.nearest[~stays]
    return select(hunt, stays)


def noise(hunt: Hunt, threat: ThreatModel, found: Tensor, tries: int) -> tuple[Hunt, Tensor]:
    """The search on the images that stand and for which noise was misread, with that noise brought near the boundary.

    The first noise that is misread is blended with the image, by halves.
    """
    everyone = torch.ones_like(hunt.y, dtype=torch.bool)
    hunt = leave(hunt, found, ~hunt.ask(threat, hunt.x, everyone))
    start = hunt.x.clone()
    open_ = torch.ones_like(hunt.y, dtype=torch.bool)
    for turn in range(tries):
        rows = (open_ & (hunt.left > 0)).nonzero()[:, 0]
        if not len(rows):
            break
        start[rows] = _noise(hunt.x[rows], hunt.draws[rows].at("noise", step=turn), coarse=turn % 2 == 1)
        open_ &= ~hunt.ask(threat, start, open_)
    hunt, start = leave(hunt, found, ~open_), start[~open_]
    if not len(start):
        return hunt, start
    return hunt, bisect(hunt, threat, start, START, straight=True)


def _noise(x: Tensor, draws: Draws, *, coarse: bool) -> Tensor:
    """Uniform noise in every value, or in 4 by 4 fields: a model may read all fine noise as one class."""
    channels, height, width = x.shape[1:]
    if not coarse:
        return draws.uniform(channels, height, width)
    down, across = (torch.arange(length, device=x.device) * FIELDS // length for length in (height, width))
    return draws.uniform(channels, FIELDS, FIELDS)[:, :, down][..., across]


def bisect(hunt: Hunt, threat: ThreatModel, far: Tensor, gap: float, *, straight: bool) -> Tensor:
    """The misread image within the share `gap` of the boundary on the way from x to `far`, which is misread.

    straight: along the line; else by clipping to ever smaller Linf balls.  In float64; it ends after 40 halvings, with
    the questions, or where the next image would be, in float32, one that was asked about before.
    """
    x, end = hunt.x.double(), far.double()
    low = torch.zeros(len(x), dtype=torch.double, device=x.device)
    high, inner, outer = torch.ones_like(low), hunt.x, far
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        new = (_on_line if straight else _in_box)(x, end, middle).float()
        who = (high - low > gap) & (hunt.left > 0) & _differ(new, inner) & _differ(new, outer)
        if not who.any():
            break
        hit = hunt.ask(threat, new, who)
        miss = who & ~hit
        low, high = torch.where(miss, middle, low), torch.where(hit, middle, high)
        inner, outer = torch.where(column(miss), new, inner), torch.where(column(hit), new, outer)
    return outer


def _on_line(x: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """This share of the way from x to the end."""
    return (x + column(share) * (end - x)).clamp(0, 1)


def _in_box(x: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """The end, clipped to a Linf ball around x of this share of its distance."""
    radius = column(share * (end - x).abs().flatten(1).amax(1))
    return end.clamp(x - radius, x + radius)


def _differ(images: Tensor, others: Tensor) -> Tensor:
    """Whether they differ at all: (n,) bool."""
    return (images != others).flatten(1).any(1)


def column(values: Tensor) -> Tensor:
    """(n,) as (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)
