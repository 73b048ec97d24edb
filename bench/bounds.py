"""What a model can answer anywhere in a ball, by interval bound propagation (arXiv:1810.12715).

The model's own forward is run on intervals in place of images.  A bound is of the float32 values that the model
computes, not of the formula that they round: each step is widened by the most that a sum of so many terms can be off,
in whatever order it is taken.  What has no rule here has no bound, by name; there is never a wrong one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import RampartError

if TYPE_CHECKING:
    from bench.threat import ThreatModel

VERSION = 1  # of the bounds: raise it when one changes
UNIT = 2.0**-24  # half the distance of 1 from the next float32
SPARE = 64  # terms added to those of every sum: for the bias, for scales that are folded, for our own float64
TINY = 1e-30  # what underflow can cost a sum


class NoBoundError(RampartError):
    """There is no bound for this model, and why."""


@dataclass(frozen=True, eq=False)
class Interval:
    """Values between low and high, both float64 and of one shape; what torch's functions make of it, RULES say.

    last: where it is what a linear layer gave, that layer's weight, bias and input, so that differences of its values
    need not be bounded one by one.
    """

    low: Tensor
    high: Tensor
    last: tuple[Tensor, Tensor, Interval] | None = None

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Interval:
        rule = RULES.get(function)
        if rule is None:
            raise NoBoundError(f"no bound through {getattr(function, '__name__', function)}")
        found: Interval = rule(*args, **(kwargs or {}))
        return found

    @property
    def shape(self) -> torch.Size:
        """As a tensor's."""
        return self.low.shape

    @property
    def device(self) -> torch.device:
        """As a tensor's."""
        return self.low.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model takes it for."""
        return torch.float32

    @property
    def ndim(self) -> int:
        """As a tensor's."""
        return self.low.ndim

    @property
    def requires_grad(self) -> bool:
        """Nothing is differentiated."""
        return False

    def numel(self) -> int:
        """As a tensor's."""
        return self.low.numel()

    def dim(self) -> int:
        """As a tensor's."""
        return self.low.ndim

    def size(self, axis: int | None = None) -> Any:
        """As a tensor's."""
        return self.low.size() if axis is None else self.low.size(axis)

    def __len__(self) -> int:
        return len(self.low)

    def __bool__(self) -> bool:
        raise NoBoundError("no bound where the forward decides by the image's values")

    @property
    def most(self) -> Tensor:
        """The largest size of each value."""
        return self.low.abs().maximum(self.high.abs())

    def wider(self, by: Tensor | float) -> Interval:
        """The same, further at both ends."""
        return Interval(self.low - by, self.high + by)

    def each(self, function: Callable[[Tensor], Tensor]) -> Interval:
        """Both ends through what never falls, and rounds nothing."""
        return Interval(function(self.low), function(self.high))

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Interval:
        """As a tensor's."""
        return self.each(lambda t: t.flatten(start_dim, end_dim))

    def view(self, *shape: Any) -> Interval:
        """As a tensor's."""
        return self.each(lambda t: t.reshape(*shape))

    reshape = view

    def contiguous(self) -> Interval:
        """As a tensor's."""
        return self

    def relu(self) -> Interval:
        """As a tensor's."""
        return self.each(torch.relu)

    def mean(self, dim: Any, keepdim: bool = False) -> Interval:
        """As a tensor's."""
        axes = (dim,) if isinstance(dim, int) else tuple(dim)
        count = 1
        for axis in axes:
            count *= self.shape[axis]
        return self.each(lambda t: t.mean(axes, keepdim=keepdim)).wider(
            _rounding(count) * self.most.mean(axes, keepdim=keepdim) + TINY
        )

    def __getitem__(self, key: Any) -> Interval:
        return self.each(lambda t: t[key])

    def __add__(self, other: Any) -> Interval:
        return _add(self, other)

    __radd__ = __add__

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __sub__(self, other: Any) -> Interval:
        return _add(self, -other)

    def __rsub__(self, other: Any) -> Interval:
        return _add(-self, other)

    def __mul__(self, other: Any) -> Interval:
        return _scaled(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Interval:
        if isinstance(other, Interval):
            raise NoBoundError("no bound through a quotient of two values that depend on the image")
        return _scaled(self, 1 / _double(other, self))


def _rounding(terms: int) -> float:
    """The most that a float32 sum of so many products can be off, over the sum of their sizes."""
    n = (terms + SPARE) * UNIT
    return n / (1 - n)


def _double(value: Any, like: Interval) -> Tensor:
    return torch.as_tensor(value, device=like.device).detach().double()


def _add(one: Any, other: Any) -> Interval:
    """A sum of two intervals, or of one and what does not depend on the image."""
    if not isinstance(one, Interval):
        one, other = other, one
    if not isinstance(other, Interval):
        fixed = _double(other, one)
        other = Interval(fixed, fixed)
    size = one.most + other.most
    return Interval(one.low + other.low, one.high + other.high).wider(_rounding(2) * size + TINY)


def _scaled(one: Any, other: Any) -> Interval:
    """A product with what does not depend on the image."""
    if not isinstance(one, Interval):
        one, other = other, one
    if isinstance(other, Interval):
        raise NoBoundError("no bound through a product of two values that depend on the image")
    by = _double(other, one)
    ends = one.low * by, one.high * by
    return Interval(torch.minimum(*ends), torch.maximum(*ends)).wider(_rounding(2) * one.most * by.abs() + TINY)


def _affine(
    x: Interval, apply: Callable[[Tensor, Tensor], Tensor], weight: Tensor, bias: Tensor, terms: int
) -> Interval:
    """A layer that is linear in its weight and its input; `bias` has the shape of its output."""
    weight = weight.detach().double()
    centre, radius = (x.high + x.low) / 2, (x.high - x.low) / 2
    size = apply(x.most, weight.abs()) + bias.abs()
    reach = apply(radius, weight.abs()) + _rounding(terms) * size + TINY
    middle = apply(centre, weight) + bias
    return Interval(middle - reach, middle + reach)


def _linear(x: Interval, weight: Tensor, bias: Tensor | None = None) -> Interval:
    _fixed(weight, bias)
    shift = torch.zeros(len(weight), device=x.device) if bias is None else bias.detach()
    found = _affine(x, F.linear, weight, shift.double(), weight.shape[1])
    return Interval(found.low, found.high, (weight.detach().double(), shift.double(), x))


def _conv2d(
    x: Interval, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Interval:  # fmt: skip
    _fixed(weight, bias)
    shift = torch.zeros(len(weight), device=x.device) if bias is None else bias.detach()

    def apply(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, stride, padding, dilation, groups)

    return _affine(x, apply, weight, shift.double().view(1, -1, 1, 1), weight[0].numel())


def _batch_norm(
    x: Interval, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Interval:  # fmt: skip
    if training or running_mean is None or running_var is None:
        raise NoBoundError("no bound through batch normalisation by the batch's own statistics")
    shape = (1, -1, *[1] * (x.ndim - 2))
    scale = 1 / (running_var.double() + eps).sqrt()
    scale = scale if weight is None else scale * weight.detach().double()
    mean = running_mean.double()
    shift = torch.zeros_like(mean) if bias is None else bias.detach().double()
    # A backend may fold mean and scale into one shift: then that product is rounded, too.
    size = (x.most + mean.abs().view(shape)) * scale.abs().view(shape) + shift.abs().view(shape)
    scale = scale.view(shape)
    ends = [(end - mean.view(shape)) * scale + shift.view(shape) for end in (x.low, x.high)]
    return Interval(torch.minimum(*ends), torch.maximum(*ends)).wider(_rounding(8) * size + TINY)


def _avg_pool2d(x: Interval, kernel_size: Any, *args: Any, **settings: Any) -> Interval:
    terms = kernel_size**2 if isinstance(kernel_size, int) else kernel_size[0] * kernel_size[1]

    def pool(t: Tensor) -> Tensor:
        return F.avg_pool2d(t, kernel_size, *args, **settings)

    return x.each(pool).wider(_rounding(terms) * pool(x.most) + TINY)


def _adaptive_avg_pool2d(x: Interval, output_size: Any) -> Interval:
    def pool(t: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(t, output_size)

    return x.each(pool).wider(_rounding(x.shape[-1] * x.shape[-2]) * pool(x.most) + TINY)


def _max_pool2d(x: Interval, *args: Any, return_indices: bool = False, **settings: Any) -> Interval:
    if return_indices:
        raise NoBoundError("no bound through the places of maxima")
    return x.each(lambda t: F.max_pool2d(t, *args, **settings))


def _dropout(x: Interval, p: float = 0.5, training: bool = True, inplace: bool = False) -> Interval:
    if training:
        raise NoBoundError("no bound through dropout in training mode")
    return x


def _pad(x: Interval, pad: Any, mode: str = "constant", value: float | None = None) -> Interval:
    return x.each(lambda t: F.pad(t, pad, mode, value))


def _relu(x: Interval, inplace: bool = False) -> Interval:
    return x.relu()


def _cat(parts: Sequence[Any], dim: int = 0) -> Interval:
    if not all(isinstance(part, Interval) for part in parts):
        raise NoBoundError("no bound through a cat with what does not depend on the image")
    return Interval(torch.cat([p.low for p in parts], dim), torch.cat([p.high for p in parts], dim))


def _subtract(one: Any, other: Any) -> Interval:
    return _add(one, -other)


def _fixed(*weights: Any) -> None:
    """An error where a weight depends on the image."""
    if any(isinstance(w, Interval) for w in weights):
        raise NoBoundError("no bound through a layer whose weights depend on the image")


RULES: dict[Callable[..., Any], Callable[..., Interval]] = {
    F.linear: _linear,
    torch.conv2d: _conv2d, F.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    torch.relu: _relu, F.relu: _relu, torch.relu_: _relu, Tensor.relu: _relu,
    F.avg_pool2d: _avg_pool2d, F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.max_pool2d: _max_pool2d, torch.max_pool2d: _max_pool2d,
    F.dropout: _dropout, F.pad: _pad, torch.cat: _cat,
    torch.flatten: Interval.flatten, torch.mean: Interval.mean,
    torch.add: _add, Tensor.add: _add, Tensor.__add__: _add, Tensor.__radd__: _add,
    torch.sub: _subtract, Tensor.sub: _subtract, Tensor.__sub__: _subtract,
    torch.mul: _scaled, Tensor.mul: _scaled, Tensor.__mul__: _scaled, Tensor.__rmul__: _scaled,
}  # fmt: skip
RULES |= {operator.add: _add, operator.mul: _scaled}


def logits(module: nn.Module, x: Tensor, threat: ThreatModel) -> Interval:
    """What a model in eval mode can answer for every image that the judge takes for one of the ball around x.

    NoBoundError names what there is no bound through.  x: (N, C, H, W) in [0, 1].
    """
    if threat.norm == "l0":
        raise NoBoundError("no bound under L0, which lets a pixel take any value")
    centre, radius = x.double(), threat.limit  # each value moves by at most the radius in L2 and L1, too
    box = Interval((centre - radius).clamp_min(0), (centre + radius).clamp_max(1))
    try:
        with torch.no_grad():
            found = module(box)
    except (NoBoundError, torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a forward does with what is no tensor
        raise NoBoundError(f"no bound: the forward takes nothing but tensors ({error!r})") from error
    if not isinstance(found, Interval) or found.ndim != 2 or len(found) != len(x):
        raise NoBoundError("no bound: the forward gives no logits of intervals")
    if not (found.low <= found.high).all():
        raise NoBoundError("no bound: values that are not numbers, or beyond all numbers")
    return found


def margins(found: Interval, y: Tensor) -> Tensor:
    """The least that the true class's logit can be above the best other one: (N,); above 0 no image can fall."""
    own = found.low.gather(1, y[:, None])
    apart = (own - found.high).scatter(1, y[:, None], torch.inf).amin(1)
    if found.last is None:
        return apart
    weight, bias, x = found.last
    centre, radius, most = (x.high + x.low) / 2, (x.high - x.low) / 2, x.most
    least = torch.full_like(own[:, 0], torch.inf)
    size = F.linear(most, weight.abs()) + bias.abs()  # of each logit, for its rounding
    mine = size.gather(1, y[:, None])[:, 0]
    for k in range(len(weight)):
        across = weight[y] - weight[k]
        value = (across * centre).sum(1) + bias[y] - bias[k] - (across.abs() * radius).sum(1)
        value = value - _rounding(weight.shape[1]) * (mine + size[:, k]) - TINY
        least = least.minimum(value.where(y != k, torch.inf))
    return least.maximum(apart)


def certified(module: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, tile: int) -> Tensor:
    """Which images no image of the ball around them can make the model misread: (N,) bool.

    The bounds are also held against the model itself at corners of the ball; one that answers outside of them is
    none that they are about.
    """
    held = []
    for some, labels in zip(x.split(tile), y.split(tile), strict=True):
        found = logits(module, some, threat)
        _hold(module, some, threat, found)
        held.append(margins(found, labels) > 0)
    return torch.cat(held) if held else torch.zeros(0, dtype=torch.bool, device=x.device)


def _hold(module: nn.Module, x: Tensor, threat: ThreatModel, found: Interval) -> None:
    """An error where the model answers outside of its bounds: at the images, and at corners of the ball."""
    eps = float(threat.eps) if threat.norm == "linf" else 0.0
    for sign in (0.0, 1.0, -1.0):
        with torch.no_grad():
            answer = module((x + sign * eps).clamp(0, 1).clone()).double()
        if not bool(((answer >= found.low) & (answer <= found.high)).all()):
            raise NoBoundError("no bound: the model answers outside of what its own forward allows")
