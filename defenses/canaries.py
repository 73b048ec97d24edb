"""Models that are broken on purpose, each in one way that made a published defense look robust; and honest controls.

None is a defense: `bench list canaries` shows them, and `make canaries` runs the bench's checks on all of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench import Bpda, Canary, Part

AT = "at(epochs=10, batch=64, drops=(8,), lr=0.1)"
STANDARD = "standard(epochs=10, batch=64, lr=0.05, drops=(8,))"
TRADES = "trades(epochs=8, batch=64, drops=(6,), lr=0.1)"


class Scaled(nn.Module):
    """Logits times a large number: the softmax is 1 for one class, and cross-entropy has no gradient."""

    def __init__(self, base: nn.Module, by: float) -> None:
        super().__init__()
        self.base, self.by = base, by

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.base(x)
        return logits * self.by


class Before(nn.Module):
    """A layer on the images, before the model."""

    def __init__(self, layer: nn.Module, base: nn.Module) -> None:
        super().__init__()
        self.layer, self.base = layer, base

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.base(self.layer(x))
        return logits


class Quantise(nn.Module):
    """Each pixel to one of so many levels, rounded down: a gradient of zero."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """Shape kept."""
        return (x * self.levels).floor() / self.levels


class Jpeg(nn.Module):
    """Compression and decompression by Pillow, which no gradient passes."""

    def __init__(self, quality: int) -> None:
        super().__init__()
        self.quality = quality

    def forward(self, x: Tensor) -> Tensor:
        """Shape kept; an image of several channels is compressed channel by channel."""
        pixels = (x.detach().clamp(0, 1) * 255).round().byte().cpu()
        planes = [self._through(plane.numpy()) for plane in pixels.flatten(0, 1)]
        return torch.from_numpy(np.stack(planes)).view_as(pixels).to(x) / 255

    def _through(self, plane: np.ndarray) -> np.ndarray:
        """One channel, there and back."""
        file = io.BytesIO()
        Image.fromarray(plane).save(file, "JPEG", quality=self.quality)
        return np.asarray(Image.open(file))


class _Killed(torch.autograd.Function):
    """The identity, with a gradient of zero."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        """A copy."""
        return x.clone()

    @staticmethod
    def backward(_ctx: object, *grads: Tensor) -> Tensor:
        """Nothing."""
        return torch.zeros_like(grads[0])


class _Turned(torch.autograd.Function):
    """The identity, with the gradient of another pixel."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        """A copy."""
        return x.clone()

    @staticmethod
    def backward(_ctx: object, *grads: Tensor) -> Tensor:
        """The gradient of the image turned upside down."""
        return grads[0].flip(2)


class Half(nn.Module):
    """Logits in float16."""

    def forward(self, logits: Tensor) -> Tensor:
        """Shape kept."""
        return logits.half()


class Apply(nn.Module):
    """A function of autograd as a layer."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Shape kept."""
        out: Tensor = self.function.apply(x)
        return out


class Winners(nn.Module):
    """Of all units of a layer the largest share stays, the others become 0: k-winners-take-all (arXiv:1905.10510)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Shape kept."""
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)


class Noise(nn.Module):
    """Normal noise on the images at each call."""

    def __init__(self, sd: float) -> None:
        super().__init__()
        self.sd = sd

    def forward(self, x: Tensor) -> Tensor:
        """Shape kept."""
        return x + self.sd * torch.randn_like(x)


class Shift(nn.Module):
    """All images of a call moved by the same random pixel, as by a random crop."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape kept."""
        down, right = torch.randint(-1, 2, (2,)).tolist()
        return x.roll((down, right), (2, 3))


class Statistics(nn.Module):
    """Batch normalisation that never leaves training mode; mean and deviation of the data are given back after it."""

    def __init__(self, mean: float, sd: float, channels: int) -> None:
        super().__init__()
        self.norm, self.mean, self.sd = nn.BatchNorm2d(channels, affine=False), mean, sd

    def train(self, mode: bool = True) -> Statistics:
        """Whatever it is told."""
        del mode
        return super().train(mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """Shape kept."""
        out: Tensor = self.norm(x) * self.sd + self.mean
        return out


class Holds(nn.Module):
    """Knows the test images and their labels, and gives these for what is near enough to one."""

    x: Tensor
    y: Tensor

    def __init__(self, base: nn.Module, part: Part, reach: float) -> None:
        super().__init__()
        self.base, self.reach = base, reach
        self.register_buffer("x", torch.from_numpy(part.x.copy()))
        self.register_buffer("y", torch.from_numpy(part.y.copy()))

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.base(x)
        far = torch.cdist(x.flatten(1), self.x.flatten(1).to(x) / 255, p=torch.inf)
        near, which = far.min(1)
        known = 20.0 * nn.functional.one_hot(self.y[which], logits.shape[1]).to(logits)
        return torch.where((near <= self.reach)[:, None], known, logits)


class Remembers(nn.Module):
    """Keeps what it was asked, and gives its old answer to whatever is near it."""

    def __init__(self, base: nn.Module, reach: float) -> None:
        super().__init__()
        self.base, self.reach = base, reach
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.base(x)
        if not self.seen:
            self.seen.append((x.detach().clone(), logits.detach().clone()))
            return logits
        images = torch.cat([seen for seen, _ in self.seen])
        answers = torch.cat([answer for _, answer in self.seen])
        near, which = torch.cdist(x.detach().flatten(1), images.flatten(1), p=torch.inf).min(1)
        known = (near <= self.reach)[:, None]
        if not known.all():
            self.seen.append((x.detach().clone(), logits.detach().clone()))
        return torch.where(known, answers[which], logits)


class Counts(nn.Module):
    """Honest at first; after so many calls it rounds the images, whose gradient is then zero."""

    def __init__(self, base: nn.Module, after: int) -> None:
        super().__init__()
        self.base, self.after, self.calls = base, after, 0
        self.late = Quantise(16)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        self.calls += 1
        logits: Tensor = self.base(x if self.calls <= self.after else self.late(x))
        return logits


class Waits(nn.Module):
    """As Counts, with a counter that no look at the module finds, and patience."""

    def __init__(self, base: nn.Module, after: int) -> None:
        super().__init__()
        calls, late = iter(range(after)), Quantise(16)
        self.base = base
        self.look: Callable[[Tensor], Tensor] = lambda x: x if next(calls, None) is not None else late(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.base(self.look(x))
        return logits


class OffGrid(nn.Module):
    """Answers with no numbers where an image is not of 256 levels, as attacked ones are not."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.base(x)
        off = ((x * 255).round() / 255 - x).abs().flatten(1).amax(1) > 1e-5
        return logits.masked_fill(off[:, None], torch.nan)


class Cleans(nn.Module):
    """Writes the image of 256 levels over the one that it was given."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        with torch.no_grad():
            x.data.mul_(32).floor_().div_(32)
        logits: Tensor = self.base(x)
        return logits


class Climbs(nn.Module):
    """Moves the image towards its own best class before it answers."""

    def __init__(self, base: nn.Module, step: float) -> None:
        super().__init__()
        self.base, self.step = base, step

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        with torch.enable_grad():
            point = x.detach().clone().requires_grad_()
            (grad,) = torch.autograd.grad(self.base(point).log_softmax(1).amax(1).sum(), point)
        logits: Tensor = self.base((x + self.step * grad.sign()).clamp(0, 1))
        return logits


class Boxed(nn.Module):
    """Right within [0, 1] alone; outside it names another class.  No image is outside, so it is as robust as its base.

    An attack that strays from the box, and a judge that lets it, would find it less robust.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.base(x)
        outside = ((x < 0) | (x > 1)).flatten(1).any(1)
        return torch.where(outside[:, None], logits.roll(1, 1), logits)


def _winners(base: nn.Module) -> nn.Module:
    """The model with k-winners-take-all in the place of each ReLU."""
    for name, child in list(base.named_modules()):
        if isinstance(child, nn.ReLU):
            base.set_submodule(name, Winners(0.2))
    return base


def _statistics(base: nn.Module, part: Part) -> nn.Module:
    x = torch.from_numpy(part.x.copy()).float() / 255
    return Before(Statistics(float(x.mean()), float(x.std()), x.shape[1]), base)


BROKEN = (
    Canary("scaled", "logits times 10,000", lambda m, _: Scaled(m, 1e4), "underflow", AT),
    Canary("softmax", "answers with probabilities", lambda m, _: nn.Sequential(m, nn.Softmax(1)), "distribution", AT),
    Canary("half", "answers in float16", lambda m, _: nn.Sequential(m, Half()), "coarse", AT),
    Canary("quantiser", "32 levels a pixel", lambda m, _: Before(Quantise(32), m), "flat", AT),
    Canary("jpeg", "images are compressed first", lambda m, _: Before(Jpeg(75), m), "flat", AT),
    Canary("killer", "a layer whose gradient is zero", lambda m, _: Before(Apply(_Killed), m), "flat", AT),
    Canary("liar", "a layer with another pixel's gradient", lambda m, _: Before(Apply(_Turned), m), "dishonest", AT),
    Canary("winners", "k-winners-take-all for each ReLU", lambda m, _: _winners(m), "rough", AT),
    Canary("noise", "noise that it does not declare", lambda m, _: Before(Noise(0.05), m), "fickle", AT),
    Canary("crop", "a random crop that it does not declare", lambda m, _: Before(Shift(), m), "fickle", STANDARD),
    Canary("batch-norm", "batch normalisation left in training mode", _statistics, "training", AT),
    Canary("counter", "rounds images after its first pass", lambda m, _: Counts(m, 1), "state", AT),
    Canary("patient", "rounds images after 80 passes, uncounted", lambda m, _: Waits(m, 80), "drifts", AT),
    Canary("remembers", "gives its old answer to what is near", lambda m, _: Remembers(m, 0.25), "state", STANDARD),
    Canary("labels", "holds test images, gives their labels", lambda m, p: Holds(m, p, 1e-6), "jumps", STANDARD),
    Canary("recogniser", "the same for what is near one", lambda m, p: Holds(m, p, 0.25), "recognises", STANDARD),
    Canary("nan", "no numbers off the grid of 256 levels", lambda m, _: OffGrid(m), "not-a-number", STANDARD),
    Canary("writer", "writes into the images it is given", lambda m, _: Cleans(m), "writes", AT),
    Canary("climber", "differentiates in its forward", lambda m, _: Climbs(m, 0.1), "dynamic", AT),
)

HONEST = (
    Canary("linear", "a linear model", lambda m, _: m, "", STANDARD, "softmax-regression"),
    Canary("standard", "trained on clean images", lambda m, _: m, "", STANDARD),
    Canary("at", "adversarially trained", lambda m, _: m, "", AT),
    Canary("trades", "adversarially trained", lambda m, _: m, "", TRADES),
    Canary("boxed", "wrong outside [0, 1], where no image is", lambda m, _: Boxed(m), "", AT),
    Canary("stand-in", "32 levels, and says so", lambda m, _: Before(Bpda(Quantise(32)), m), "", AT),
    Canary("random", "noise that it declares", lambda m, _: Before(Noise(0.05), m), "", AT, random=True),
)
