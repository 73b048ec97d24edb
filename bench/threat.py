"""What an adversary may do: the only place that knows what a ball is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, cast, get_args

from bench.errors import UsageError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from bench.draws import Draws

Norm = Literal["linf", "l2", "l1", "l0"]
UNBOUNDED = Fraction(2**31)  # beyond every image


@dataclass(frozen=True)
class ThreatModel:
    """The images within `eps` of x in `norm`, and in [0, 1].

    Linf, L2 and L1 are over all C*H*W values; L0 counts pixels (a pixel's channels count once, as in Sparse-RS).
    `eps` is an exact fraction: 8/255 and 0.031 are two threats, 0.3 and 0.30 are one.  A minimum-norm attack is given
    a threat without bound, of which only the norm counts: all of [0, 1] is in its ball.
    """

    norm: Norm
    eps: Fraction

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise UsageError(f"there is no norm {self.norm!r}{nearest(self.norm, get_args(Norm))}")
        if not 0 <= self.eps <= UNBOUNDED:
            raise UsageError(f"eps must be at least 0 and below 2^31, and is {self.eps}")
        if self.norm == "l0" and self.eps.denominator != 1:
            raise UsageError(f"an L0 threat counts whole pixels, and eps is {self.eps}")

    @classmethod
    def parse(cls, text: str) -> ThreatModel:
        """`linf:8/255`, `l2:0.5`, `l0:10`."""
        norm, colon, size = text.strip().partition(":")
        try:
            # 1e999999999 would take for ever to read.
            if not colon or len(size) > 40 or len(size.lower().partition("e")[2]) > 3:
                raise ValueError
            eps = Fraction(size.replace(" ", ""))
        except (ValueError, ZeroDivisionError):
            raise UsageError(f"a threat is written norm:eps, as in linf:8/255 or l2:0.5, not {text!r}") from None
        if eps >= UNBOUNDED:
            raise UsageError(f"eps must be below 2^31, and is {size}")
        return cls(cast(Norm, norm.lower()), eps)

    @classmethod
    def of_cell(cls, text: str) -> ThreatModel:
        """As a cell writes it: `linf:8/255`, or `linf` alone, which is without bound."""
        return cls(cast(Norm, text), UNBOUNDED) if text in get_args(Norm) else cls.parse(text)

    @property
    def without_bound(self) -> ThreatModel:
        """The same norm, and every image of [0, 1]."""
        return ThreatModel(self.norm, UNBOUNDED)

    @property
    def limit(self) -> float:
        """The largest size that counts as in the ball: eps, and 1e-6 of it and 1e-7 more for rounding."""
        return float(self.eps) * (1 + 1e-6) + 1e-7

    def holds(self, size: Tensor) -> Tensor:
        """Whether perturbations of these sizes (N,) are in the ball."""
        return size <= self.limit

    def __str__(self) -> str:
        """The one way to write it: a short decimal where that is exact, else a fraction; the norm alone, unbounded."""
        if self.eps == UNBOUNDED:
            return self.norm
        decimal = f"{float(self.eps):.12g}"
        exact = "e" not in decimal and Fraction(decimal) == self.eps
        return f"{self.norm}:{decimal if exact else self.eps}"

    def size(self, delta: Tensor) -> Tensor:
        """The norm of each perturbation: (N, C, H, W) to (N,), in delta's precision."""
        match self.norm:
            case "linf":
                return delta.abs().flatten(1).amax(1)
            case "l2":
                return per_image_sum(delta.square()).sqrt()
            case "l1":
                return per_image_sum(delta.abs())
            case "l0":
                return (delta != 0).any(1).flatten(1).sum(1).to(delta.dtype)

    def project(self, x_adv: Tensor, x: Tensor, radius: Tensor | None = None) -> Tensor:
        """Bring images back into the ball and into [0, 1]; a radius (N,) stands in for eps, each image with its own.

        Linf, L1 and L0 give the nearest such image.  L2 scales to the ball and then clips, as the field's code
        does: always feasible, and the nearest where the box does not bind.
        """
        import torch

        if radius is None:
            radius = torch.full((len(x),), float(self.eps), dtype=torch.double, device=x.device)
        match self.norm:
            case "linf":
                most = _column(radius.to(x.dtype))
                return x_adv.clamp(x - most, x + most).clamp_(0, 1)
            case "l2":
                delta = x_adv - x
                # The divisor is kept from zero; a zero perturbation is then left as it is.
                shrink = (radius.to(x.dtype) / self.size(delta).clamp_min(1e-12)).clamp_max(1)
                return (x + delta * _column(shrink)).clamp(0, 1)
            case "l1":
                return _project_l1(x_adv, x, radius.double())
            case "l0":
                return _project_l0(x_adv, x, radius)

    def random(self, x: Tensor, draws: Draws) -> Tensor:
        """A random image of the ball, clipped to [0, 1].

        Uniform in the Linf, L2 or L1 ball; for L0 as many pixels as allowed, each with random colours.
        """
        shape, eps = x.shape[1:], float(self.eps)
        match self.norm:
            case "linf":
                delta = (2 * draws.uniform(*shape) - 1) * eps
            case "l2":
                direction = draws.at("direction").normal(*shape)
                delta = direction * _column(eps * self._radius(x, draws) / self.size(direction).clamp_min(1e-12))
            case "l1":
                # Exponentials with random signs, divided by their sum, are uniform on the L1 sphere.
                steps = -(1 - draws.at("size").uniform(*shape)).log() * draws.at("sign").sign(*shape)
                delta = steps * _column(eps * self._radius(x, draws) / self.size(steps).clamp_min(1e-12))
            case "l0":
                pixels = draws.at("place").order(shape[1] * shape[2]).view(-1, 1, *shape[1:])
                colours = draws.at("colour").uniform(*shape)
                return colours.where(pixels < int(self.eps), x)
        return self.project(x + delta, x)

    def uphill(self, grad: Tensor) -> Tensor:
        """The direction of size 1 that climbs fastest along `grad`; zero where grad is zero.

        Linf: the sign.  L2: grad over its L2 norm.  L1: the steepest value alone.  L0, which has no steepest
        direction: grad over its L1 norm, as PGD_0 (Croce and Hein, 2019) steps.
        """
        import torch

        match self.norm:
            case "linf":
                return grad.sign()
            case "l2":
                level = _level(grad)
                return level / _column(self.size(level).clamp_min(1e-12))
            case "l1":
                flat = grad.flatten(1)
                top = flat.abs().argmax(1, keepdim=True)
                return torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign()).view_as(grad)
            case "l0":
                level = _level(grad)
                return level / _column(per_image_sum(level.abs()).clamp_min(1e-12))

    def _radius(self, x: Tensor, draws: Draws) -> Tensor:
        """How far out, as a share of eps, a point uniform in the ball lies: (N,)."""
        # Not pow: its last bits depend on where in the batch a value sits.
        return (draws.at("radius").uniform(1)[:, 0].double().log() / math.prod(x.shape[1:])).exp().float()


def per_image_sum(values: Tensor) -> Tensor:
    """The sum over all but the first axis, with the same bits in any batch: (N, ...) to (N,)."""
    import torch

    rows = values.flatten(1).contiguous()
    if len(rows) == 1:  # one row alone is split over threads and added in another order
        return torch.cat([rows, rows]).sum(1)[:1]
    return rows.sum(1)


def _level(grad: Tensor) -> Tensor:
    """Each image's gradient with its largest value brought to 1, so that no square of it underflows."""
    top = grad.abs().flatten(1).amax(1)
    return grad / _column(top.where(top > 0, 1.0))


def _column(values: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def _project_l1(x_adv: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """The nearest image with L1 size at most eps (N,), in [0, 1]: |delta| shrinks by one threshold, capped by the box.

    sum_i min(max(|d_i| - t, 0), cap_i) falls piecewise linearly in t, so the root lies between two breakpoints,
    which bisection over the sorted breakpoints finds exactly (Croce and Hein, 2021, "Mind the box").
    """
    import torch

    start = x.double().flatten(1)
    delta = x_adv.double().flatten(1) - start
    cap = torch.where(delta > 0, 1 - start, start)
    size = delta.abs()

    def total(threshold: Tensor) -> Tensor:
        return per_image_sum((size - threshold[:, None]).clamp_min(0).minimum(cap))

    breaks = torch.cat([size, (size - cap).clamp_min(0), torch.zeros_like(size[:, :1])], 1).sort(1).values
    low = torch.zeros(len(x), dtype=torch.long, device=x.device)  # total(breaks[low]) > eps, or low is 0
    high = torch.full_like(low, breaks.shape[1] - 1)  # total(breaks[high]) <= eps
    for _ in range(math.ceil(math.log2(breaks.shape[1])) + 1):
        middle = (low + high) // 2
        above = total(breaks.gather(1, middle[:, None])[:, 0]) > eps
        low, high = middle.where(above, low), high.where(above, middle)
    left, right = breaks.gather(1, low[:, None])[:, 0], breaks.gather(1, high[:, None])[:, 0]
    at_left, at_right = total(left), total(right)
    share = ((at_left - eps) / (at_left - at_right).clamp_min(1e-300)).clamp(0, 1)
    threshold = torch.where(at_left > eps, left + share * (right - left), torch.zeros_like(left))
    kept = (size - threshold[:, None]).clamp_min(0).minimum(cap) * delta.sign()
    near = (start + kept).to(x.dtype)
    # Thousands of values rounded outwards would add up: each steps back towards x where rounding took it too far.
    near = torch.where((near.double() - start).abs() > kept.abs(), near.nextafter(x.flatten(1)), near)
    return near.view_as(x).clamp(0, 1)


def _project_l0(x_adv: Tensor, x: Tensor, pixels: Tensor) -> Tensor:
    """The nearest image in [0, 1] that differs from x in at most so many pixels (N,)."""
    inside = x_adv.clamp(0, 1)
    # Keeping a pixel saves its whole distance, less what clipping it to the box costs anyway.
    gain = ((x_adv - x).square() - (x_adv - inside).square()).sum(1).flatten(1)
    rank = gain.argsort(dim=1, descending=True, stable=True).argsort(1)
    return inside.where((rank < pixels[:, None]).view(len(x), 1, *x.shape[2:]), x)
