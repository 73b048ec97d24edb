"""The thorough checks: each fires on a model that is broken in exactly its way, and not on an honest one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.doubts import REASONS
from bench.evaluate import Subject
from bench.exam import Part
from bench.honesty import Checked
from bench.registry import plugins
from bench.thorough import CHECKS, FOR_RANDOM, check_thoroughly
from bench.threat import ThreatModel
from bench.victim import freeze

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    """The data set."""
    return plugins().parse("dataset", "digits").plugin(None)


class Means(nn.Module):
    """The class whose mean image is nearest: a linear model, right on nine digits of ten."""

    def __init__(self, digits):
        super().__init__()
        x, y = torch.from_numpy(digits.train.x.copy()).flatten(1).float() / 255, digits.train.y
        means = torch.stack([x[torch.from_numpy(y == k)].mean(0) for k in range(10)])
        self.last = nn.Linear(64, 10)
        self.last.weight.data, self.last.bias.data = 4 * means, -2 * means.square().sum(1)

    def forward(self, x):
        return self.last(x.flatten(1))


class After(nn.Module):
    """What is done to a model's images before it, and to its logits after it."""

    def __init__(self, base, before=lambda x: x, after=lambda z, _: z):
        super().__init__()
        self.base, self.before, self.after = base, before, after

    def forward(self, x):
        return self.after(self.base(self.before(x)), x)


class Backward(torch.autograd.Function):
    """The identity, with any function as its backward."""

    @staticmethod
    def forward(ctx, x, function):
        ctx.function = function
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.function(grad), None


def with_gradient(base, function):
    return After(base, before=lambda x: Backward.apply(x, function))


def look(module, part, *only, eps=0.1, n=32, random=False, lucky=8) -> Checked:
    threat = ThreatModel.parse(f"linf:{eps}")
    subject = Subject(freeze(module, CPU), 64, random)

    def find(text):
        return plugins().parse("attack", text)

    return check_thoroughly(subject, part, threat, find, CPU, most=n, lucky=lucky, only=only)


def grey(n=16):
    """Images of one grey, of class 0."""
    return Part(np.full((n, 1, 8, 8), 128, np.uint8), np.zeros(n, np.int64))


def way(x, eps=0.1):
    """How far grey images went from where they were, as a share of eps, in the mean: (N,)."""
    return (x.flatten(1).mean(1) - 128 / 255) / eps


class Along(nn.Module):
    """Logits that depend on `way` alone."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return torch.stack(torch.broadcast_tensors(*self.logits(way(x))), 1)


def test_an_honest_model_raises_nothing(digits):
    """A linear one, whose every attack is easy; figures of all checks are there."""
    found = look(Means(digits), digits.test, lucky=1, n=16)
    assert found.codes == ()
    assert found.figures["solved"] == 1
    assert found.figures["stand_in_the_box"] == 0
    assert found.figures["fell_in_8_bits"] > 0.9
    assert found.forwards > found.backwards > 0
    assert found.images == 16


def test_a_random_honest_model_raises_nothing(digits):
    """Its checks are others; a little noise is averaged away."""
    module = After(Means(digits), before=lambda x: x + 0.02 * torch.randn_like(x))
    found = look(module, digits.test, random=True, n=16)
    assert found.codes == ()
    assert "stand_at_eot_20" in found.figures


def test_logits_whose_scale_hides_their_slope(digits):
    """So large that the softmax is one class, and the cross-entropy has no gradient; on the plain ones it has."""
    found = look(After(Means(digits), after=lambda z, _: 1e3 * z), digits.test, "scale", eps=0.2)
    assert found.codes == ("scale",)
    assert found.doubts[0].figures["by"] < 1
    assert len(found.doubts[0].images) > 5
    assert look(Means(digits), digits.test, "scale", eps=0.2).figures["found_by_rescaling"] < 0.1


def test_a_gradient_of_zero_stands_in_the_whole_box(digits, monkeypatch):
    """And solves no problem whose solution is known, and lets luck find what it does not."""
    module = with_gradient(Means(digits), torch.zeros_like)
    assert look(module, digits.test, "budgets", n=8).codes == ("budget",)
    assert look(module, digits.test, "active", n=6).codes == ("active",)
    monkeypatch.setattr("bench.thorough.UNIFORM", 2000)
    luck = look(module, digits.test, "luck", eps=0.2, n=12)
    assert luck.codes == ("luck",)
    assert luck.doubts[0].images
    assert "luck" not in look(Means(digits), digits.test, "luck", eps=0.2, n=12).codes


def test_a_gradient_that_shows_few_pixels_needs_more_steps(digits):
    """A hundredth of them a step."""
    generator = torch.Generator().manual_seed(0)

    def few(grad):
        return grad * (torch.rand(grad.shape, generator=generator) < 0.01)

    assert "converges" in look(with_gradient(Means(digits), few), digits.test, "convergence", eps=0.2).codes


def test_a_class_that_cannot_be_reached_hides_the_one_that_can():
    """The nearest is always a tenth away; the next one is reached at the edge of the ball."""
    module = Along(lambda t: (0 * t, 0 * t - 0.1, 1.5 * t - 1, 0 * t - 5, 0 * t - 6))
    found = look(module, grey(), "convergence", n=16)
    assert found.codes == ("targets",)
    assert found.figures["found_by_targets"] == 1


def test_a_valley_that_only_a_long_step_crosses():
    """The margin has a hill at half of eps and falls at the corner of the ball alone."""
    module = Along(lambda t: (0 * t, -0.5 + 0.3 * (torch.pi * t).sin() + 40 * (t - 0.95).clamp_min(0)))
    found = look(module, grey(), "steps", n=16)
    assert found.codes == ("step",)
    assert found.doubts[0].figures["step"] == 2
    straight = Along(lambda t: (0 * t, t - 0.9))
    assert look(straight, grey(), "steps", n=16).codes == ()


def test_waves_on_the_logits_are_rugged(digits):
    """Of a length far below a level of the image."""

    def waves(z, x):
        return z + 20 * (2000 * x.flatten(1) @ torch.linspace(-1, 1, 64))[:, None].sin() * torch.eye(10)[0]

    found = look(After(Means(digits), after=waves), digits.test, "landscape")
    assert found.codes == ("rugged",)
    assert look(Means(digits), digits.test, "landscape").figures["ruggedness"] < 0.05


def test_a_gradient_that_is_mostly_noise_needs_more_draws(digits):
    """Noise of many times its size, which each doubling of the passes halves in variance."""

    def noisy(grad):
        return grad + 100 * grad.abs().mean() * torch.randn_like(grad)

    found = look(with_gradient(Means(digits), noisy), digits.test, "draws", random=True, eps=0.2)
    assert found.codes == ("draws",), found.figures


def test_what_falls_between_the_levels_alone_is_told_and_no_doubt(digits):
    """A model that misreads whatever is not of 256 levels."""

    def off(z, x):
        return torch.where(((x * 255).round() / 255 - x).abs().flatten(1).amax(1)[:, None] > 1e-5, z.roll(1, 1), z)

    found = look(After(Means(digits), after=off), digits.test, "scale", "rounded", eps=0.01)
    assert found.figures["fell_in_8_bits"] < 0.2
    assert "scale" not in found.codes


def test_what_does_not_fit_is_left_out(digits):
    """In L0 no attack here searches; two classes have no DLR; a model that reads nothing right is not asked."""
    subject = Subject(freeze(Means(digits), CPU), 64)

    def find(text):
        return plugins().parse("attack", text)

    none = check_thoroughly(subject, digits.test, ThreatModel.parse("l0:3"), find, CPU, most=8)
    assert none.codes == ()
    wrong = Part(digits.test.x[:8], (digits.test.y[:8] + 5) % 10)
    assert check_thoroughly(subject, wrong, ThreatModel.parse("linf:0.1"), find, CPU).figures == {}


def test_every_check_is_there_and_every_doubt_has_a_reason():
    """By name."""
    from bench import thorough

    assert all(hasattr(thorough._Checks, f"_{name}") for name in {*CHECKS, *FOR_RANDOM})
    codes = {"scale", "budget", "converges", "targets", "step", "active", "rugged", "luck", "draws"}
    assert all(REASONS[code].probe for code in codes)
