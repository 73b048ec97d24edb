"""SimBA: one coordinate after another, a step up or down where the true class's probability falls; scores alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.losses import misread
from attacks.pgd import select
from bench import Draws, Model, ThreatModel, attack, per_image_sum

SHELL = 7  # the authors' stride: low frequencies come in squares that grow by so many


@attack(
    norms=("linf", "l2"), access="scores", paper="arXiv:1905.07121", version=1, cost=lambda queries, **_: (queries, 0)
)
def simba(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    queries: int = 5000,
    step: float = 0.2,
    basis: Literal["pixel", "dct"] = "pixel",
) -> Tensor:
    """Try a step down, then a step up, along one coordinate after another; keep what lowers the true probability.

    arXiv:1905.07121.  Access: scores.  Linf and L2.  ANY: an image stops at its first misread query, x included.
    step: in pixel units along a coordinate of the basis, 0.2 as in the paper, which bounds nothing; here every image
    is projected into the ball before it is asked about, so in Linf a pixel goes to the edge.
    basis="pixel": single values of single channels, in a random order.  basis="dct": two-dimensional cosines of a
    channel, low frequencies first, in squares that grow by 7 as the authors' strided order, at random within a square.
    Each image has an order of its own, and begins it again when it is through.
    Probabilities are compared as log odds in float64, so that confidence near 1 is still seen to fall.
    queries: all of an image, x included; the paper has 10,000 and more, here as many as `square` and `nes`.
    Cost: queries forwards; a coordinate takes one of them, or two where the step down is of no use.
    """
    if not threat.eps:
        return x
    found = x.clone()
    search = _begin(model, x, y, draws, basis)
    axes = [_axes(length, basis).to(x) for length in x.shape[2:]]
    new = x
    for query in range(queries):
        if query:
            new = threat.project(search.now + step * _coordinate(search, axes), search.x)
        logits = search.model(new)
        fell = misread(logits, search.y)
        if fell.any():
            found[search.rows[fell]] = new[fell]
            if fell.all():
                return found
            search, new, logits = select(search, ~fell), new[~fell], logits[~fell]
        value = odds(logits, search.y)
        better = value > search.value
        search.now = torch.where(better.view(-1, 1, 1, 1), new, search.now)
        search.value = torch.where(better, value, search.value)
        if query:
            done = better | (search.way > 0)
            search.place = (search.place + done) % search.order.shape[1]
            search.way = torch.where(done, -1.0, 1.0)
    found[search.rows] = search.now
    return found


@dataclass
class _Search:
    """Where the search stands on each image that has not fallen."""

    model: Model
    rows: Tensor  # (n,) places among the images attacked
    x: Tensor
    y: Tensor
    now: Tensor  # the image reached, and its log odds (n,)
    value: Tensor
    order: Tensor  # (n, C * H * W) the coordinates, in the order in which they are tried
    place: Tensor  # (n,) how far it is through
    way: Tensor  # (n,) -1 for the step down, +1 for the step up


def _begin(model: Model, x: Tensor, y: Tensor, draws: Draws, basis: str) -> _Search:
    """The images themselves, and an order of coordinates for each."""
    return _Search(
        model=model, rows=torch.arange(len(x), device=x.device), x=x, y=y, now=x,
        value=x.new_full((len(x),), -torch.inf, dtype=torch.double), order=order(x, draws.at("order"), basis),
        place=torch.zeros_like(y), way=-torch.ones_like(y, dtype=x.dtype),
    )  # fmt: skip


def odds(logits: Tensor, y: Tensor) -> Tensor:
    """log((1 - p) / p) of the true class's probability p: (N,) in float64; it rises where p falls."""
    others = logits.double().scatter(1, y[:, None], -torch.inf)
    top = others.amax(1)
    return top + per_image_sum((others - top[:, None]).exp()).log() - logits.double().gather(1, y[:, None])[:, 0]


def order(x: Tensor, draws: Draws, basis: str) -> Tensor:
    """All coordinates at random, of the DCT those of low frequencies first: (n, C * H * W)."""
    channels, height, width = x.shape[1:]
    bits = draws.bits(channels * height * width)
    if basis == "dct":
        down, across = (torch.arange(length, device=x.device) // SHELL for length in (height, width))
        shell = torch.maximum(down[:, None], across[None, :]).expand(channels, -1, -1).flatten()
        bits += shell << 32
    return bits.argsort(dim=1, stable=True)


def _axes(length: int, basis: str) -> Tensor:
    """Orthonormal rows: the unit vectors, or the cosines of the DCT-II."""
    if basis == "pixel":
        return torch.eye(length)
    places = torch.arange(length, dtype=torch.double)
    waves = torch.cos(math.pi / length * (places + 0.5) * places[:, None]) * math.sqrt(2 / length)
    waves[0] /= math.sqrt(2)
    return waves.float()


def _coordinate(search: _Search, axes: list[Tensor]) -> Tensor:
    """The direction that each image tries now, of L2 size 1: shaped as the images."""
    _, height, width = search.x.shape[1:]
    images = torch.arange(len(search.x), device=search.x.device)
    chosen = search.order[images, search.place]
    down, across = axes[0][chosen // width % height], axes[1][chosen % width]
    direction = torch.zeros_like(search.x)
    direction[images, chosen // (height * width)] = search.way.view(-1, 1, 1) * down[:, :, None] * across[:, None]
    return direction
