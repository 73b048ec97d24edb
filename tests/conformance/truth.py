"""Models whose exact distance from every image is known: linear, a sphere, and a small ReLU net; on real digits.

Each image comes with the nearest image that is misread.  On the way there the distance falls as one goes: so all
images can be brought to one distance, at which an attack finds them or does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import ThreatModel
from bench.exam import Part
from data.digits import digits
from tests.conformance import milp

SIDE, PIXELS = 8, 64
GRID = 256  # weights are whole multiples of 1 / GRID, so that machines that train a little differently have the same
Net = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Known:
    """Images (N, 1, 8, 8) in [0, 1] that a model reads right, each with its exact distance (N,) to the rest.

    nearest: the images of other classes at that distance; none in L0, whose distance counts pixels.
    """

    name: str
    norm: str
    module: nn.Module
    x: Tensor
    y: Tensor
    distance: Tensor
    nearest: Tensor | None

    def first(self, n: int) -> Known:
        """The first n images."""
        nearest = None if self.nearest is None else self.nearest[:n]
        return replace(self, x=self.x[:n], y=self.y[:n], distance=self.distance[:n], nearest=nearest)

    def accuracy(self, eps: float) -> float:
        """The exact robust accuracy in a ball of this size, on these images."""
        return float((self.distance > eps).double().mean())

    def brought_to(self, distance: float) -> Known:
        """The images that are as far, moved towards their nearest ones until they are exactly at this distance.

        What is within r of an image on the way from x to its nearest x* is within |x - image| + r of x, so nothing
        misread is nearer than x* is.
        """
        assert self.nearest is not None
        kept = (self.distance >= distance) & self.distance.isfinite()
        x, nearest, far = self.x[kept].double(), self.nearest[kept].double(), self.distance[kept]
        moved = nearest + (x - nearest) * (distance / far).view(-1, 1, 1, 1)
        return replace(
            self, x=moved.float(), y=self.y[kept], distance=torch.full_like(far, distance), nearest=nearest.float()
        )


class Linear(nn.Module):
    """z = W x + b on flat images."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.float(), False), nn.Parameter(bias.float(), False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return F.linear(x.flatten(1), self.weight, self.bias)


class Sphere(nn.Module):
    """Class 0 inside a sphere around grey, class 1 outside: z = (0, |x - 1/2|^2 - radius^2)."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out = (x - 0.5).flatten(1).square().sum(1) - self.radius**2
        return torch.stack([torch.zeros_like(out), out], 1)


def known(images: int) -> Iterator[Known]:
    """Every model under every norm in which its distance is known, on as many test images or a few fewer."""
    for name in ("linear-2", "linear-10"):
        for norm in ("linf", "l2", "l1", "l0"):
            yield linear(name, norm, images)
    for norm in ("linf", "l2"):
        yield sphere(norm, images)
    for norm in ("linf", "l1"):
        yield relu(norm, images)


def named(name: str, norm: str, images: int) -> Known:
    """One of them."""
    make = {"sphere": sphere, "relu": relu}.get(name)
    return make(norm, images) if make else linear(name, norm, images)


def linear(name: str, norm: str, images: int) -> Known:
    """A linear model of two digits or of all ten; box and ball in closed form."""
    layers, x, y = _trained(name)
    return _of_linear(name, *layers[0], x[:images], y[:images], norm)


def sphere(norm: str, images: int) -> Known:
    """Digits of half the contrast in a sphere; so far inside [0, 1] that the nearest image outside it is there too."""
    _, x, _ = _trained("linear-10")
    x = (64 + x[:images].mul(127)).round() / 255
    u = x.double() - 0.5
    radius = 1.15 * float(u.square().sum(1).sqrt().max())
    missing = radius**2 - u.square().sum(1)
    if norm == "l2":
        size = u.square().sum(1).sqrt()
        distance, nearest = radius - size, 0.5 + u * (radius / size)[:, None]
    else:  # all values as far outwards: d e^2 + 2 e |u|_1 = missing
        half = u.abs().sum(1)
        distance = ((half.square() + PIXELS * missing).sqrt() - half) / PIXELS
        nearest = 0.5 + u + distance[:, None] * torch.where(u < 0, -1.0, 1.0)
    if bool((nearest < 0).any() or (nearest > 1).any()):
        raise ArithmeticError("the sphere leaves [0, 1]: its closed form does not hold")
    y = torch.zeros(len(x), dtype=torch.long)
    return Known("sphere", norm, Sphere(radius).eval(), _square(x), y, distance, _square(nearest))


def relu(norm: str, images: int) -> Known:
    """A net of eight ReLUs, by mixed-integer programming."""
    layers, x, y = _trained("relu")
    x, y = x[:images], y[:images]
    plain = [(weight.numpy(), bias.numpy()) for weight, bias in layers]
    found = list(milp.distances(plain, x.numpy(), y.tolist(), "linf" if norm == "linf" else "l1"))
    distance = torch.tensor([one.distance for one in found], dtype=torch.double)
    nearest = torch.from_numpy(np.stack([one.image for one in found]))
    return Known("relu", norm, _module(layers), _square(x), y, distance, _square(nearest))


def _of_linear(name: str, weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, norm: str) -> Known:
    """A linear model's images, with the nearest of all classes."""
    distance = torch.full((len(x),), torch.inf, dtype=torch.double)
    nearest = x.clone()
    for j in range(len(weight)):
        w = weight[j] - weight[y]
        gap = -(x * w).sum(1) - (bias[j] - bias[y])
        cap = torch.where(w > 0, 1 - x, x)
        moves = _least(w.abs(), cap, gap, norm)
        size = (
            moves.gt(0).sum(1).double()
            if norm == "l0"
            else ThreatModel.parse(f"{norm}:1").size(moves.view(-1, 1, SIDE, SIDE))
        )
        reached = (w.abs() * moves).sum(1) >= gap * (1 - 1e-9)
        better = reached & (y != j) & (size < distance)
        distance = size.where(better, distance)
        nearest = (x + moves * w.sign()).where(better[:, None], nearest)
    module = Linear(weight, bias).eval()
    return Known(name, norm, module, _square(x), y, distance, None if norm == "l0" else _square(nearest))


def _least(slope: Tensor, cap: Tensor, gap: Tensor, norm: str) -> Tensor:
    """The smallest moves (N, d) in [0, cap] with sum of slope x move = gap, or all of cap where that is too little."""
    if norm in {"l1", "l0"}:  # the steepest values first; in L0 those that gain most, all the way
        order = (slope if norm == "l1" else slope * cap).argsort(dim=1, descending=True, stable=True)
        gains = (slope * cap).gather(1, order)
        still = (gap[:, None] - gains.cumsum(1) + gains).clamp_min(0)  # what is missing before each
        taken = torch.minimum(still, gains) / gains.where(gains > 0, 1.0)
        if norm == "l0":
            taken = taken.gt(0).double()
        return torch.zeros_like(cap).scatter(1, order, taken * cap.gather(1, order))
    low, high = torch.zeros_like(gap), torch.full_like(gap, 1e6)
    unit = torch.ones_like(slope) if norm == "linf" else slope
    for _ in range(200):
        middle = (low + high) / 2
        short = (slope * (middle[:, None] * unit).minimum(cap)).sum(1) < gap
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (high[:, None] * unit).minimum(cap)


@cache
def _trained(name: str) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    """A net's layers in float64, trained on digits, and the test images (n, 64) that it reads right, with labels."""
    dataset = digits(Path())
    pair = (3, 8) if name == "linear-2" else None
    x, y = _images(dataset.train, pair)
    widths = [PIXELS, *([8] if name == "relu" else []), 2 if pair else 10]
    torch.manual_seed(0)
    linear = [nn.Linear(a, b, dtype=torch.double) for a, b in pairwise(widths)]
    net = nn.Sequential(*[part for layer in linear for part in (layer, nn.ReLU())][:-1])
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    with torch.enable_grad():
        for _ in range(300):
            decay = sum((p.square().sum() for p in net.parameters()), torch.zeros((), dtype=torch.double))
            loss = F.cross_entropy(net(x), y) + 1e-3 * decay
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    layers = [tuple((p.detach() * GRID).round() / GRID for p in (one.weight, one.bias)) for one in linear]
    found = [(weight, bias) for weight, bias in layers]
    x, y = _images(dataset.test, pair)
    right = _module(found)(_square(x)).argmax(1) == y
    return found, x[right], y[right]


def _images(part: Part, pair: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """Flat images (n, 64) in float64, of a pair of classes or of all, and their labels."""
    x, y = torch.from_numpy(part.x.copy()).flatten(1).double() / 255, torch.from_numpy(part.y.copy())
    if pair is None:
        return x, y
    kept = (y == pair[0]) | (y == pair[1])
    return x[kept], (y[kept] == pair[1]).long()


def _module(layers: Sequence[tuple[Tensor, Tensor]]) -> nn.Module:
    parts = [part for layer in layers for part in (Linear(*layer), nn.ReLU())][:-1]
    return nn.Sequential(*parts).eval()


def _square(x: Tensor) -> Tensor:
    """Flat images as float32 images; those of a Part come back bit by bit as the bench has them."""
    return x.view(-1, 1, SIDE, SIDE).float()
