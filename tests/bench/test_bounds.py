"""Interval bounds: never wrong, exact where the model is linear, and by name absent where there is no rule."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from bench import Draws, ThreatModel
from bench.bounds import NoBoundError, certified, logits, margins
from bench.registry import plugins
from bench.victim import freeze
from tests.conformance import truth

CPU = torch.device("cpu")
BOUNDED = ("cnn", "mnist-cnn", "softmax-regression", "resnet18", "preactresnet18", "preactresnet18(variant='fast')",
           "resnet20", "wrn(depth=10, width=1)")  # fmt: skip


def linf(eps):
    return ThreatModel("linf", Fraction(eps))


def net(text, size=8, channels=1):
    torch.manual_seed(0)
    recipe = plugins().parse("net", text)
    module = recipe.plugin.function(classes=10, channels=channels, size=size, **recipe.settings)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):  # as after a training
            child.running_mean.normal_(0, 0.1)
            child.running_var.uniform_(0.5, 2)
            nn.init.normal_(child.weight)
            nn.init.normal_(child.bias)
    return freeze(module, CPU)


@pytest.mark.parametrize("name", ["linear-2", "linear-10"])
def test_a_linear_model_is_certified_exactly_up_to_its_distance(name):
    """In closed form, box included: a thousandth within it all images are certified, a thousandth beyond it none."""
    known = truth.linear(name, "linf", 20)
    for i, distance in enumerate(known.distance.tolist()):
        x, y = known.x[i : i + 1], known.y[i : i + 1]
        assert certified(known.module, x, y, linf(0.999 * distance), 16).tolist() == [True]
        assert certified(known.module, x, y, linf(1.001 * distance), 16).tolist() == [False]


def test_no_image_of_a_relu_net_is_certified_beyond_its_exact_distance():
    """By mixed-integer programming; and at a third of it all are, so that the bound is not empty."""
    known = truth.relu("linf", 6)
    for i, distance in enumerate(known.distance.tolist()):
        x, y = known.x[i : i + 1], known.y[i : i + 1]
        assert certified(known.module, x, y, linf(0.3 * distance), 16).tolist() == [True]
        assert certified(known.module, x, y, linf(1.0001 * distance), 16).tolist() == [False]


@pytest.mark.parametrize(
    ("text", "norm"), [*((text, "linf:0.03") for text in BOUNDED), ("cnn", "l2:0.03"), ("cnn", "l1:0.03")]
)
def test_no_answer_in_the_ball_leaves_the_bounds(text, norm):
    """At random images of it, at its corners, and at those that a gradient leads to, in float32."""
    module, threat = net(text), ThreatModel.parse(norm)
    torch.manual_seed(1)
    x = torch.rand(4, 1, 8, 8).mul(255).round() / 255
    found = logits(module, x, threat)
    draws = Draws(0, torch.arange(4), "bounds")
    tried = [x, *(threat.random(x, draws.at("try", step=k)) for k in range(8))]
    if threat.norm == "linf":
        tried += [(x + 0.03 * draws.at("corner", step=k).sign(1, 8, 8)).clamp(0, 1) for k in range(8)]
    for k in range(3):
        point = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(module(point)[:, k].sum(), point)
        tried += [threat.project(x + s * threat.uphill(grad) * 0.03, x) for s in (1, -1)]
    for image in tried:
        answer = module(image).double()
        assert ((answer >= found.low) & (answer <= found.high)).all()


@pytest.mark.parametrize("text", ["cnn", "mnist-cnn", "softmax-regression"])
def test_the_bounds_of_a_point_are_narrow_and_no_point(text):
    """A ball of size zero still holds what the judge allows for, 1e-7, and the rounding of every layer."""
    module = net(text)
    x = torch.rand(4, 1, 8, 8).mul(255).round() / 255
    found, answer = logits(module, x, linf(0)), module(x).double()
    assert ((answer >= found.low) & (answer <= found.high)).all()
    wide = (found.high - found.low).amax() / (answer.amax() - answer.amin())
    assert 1e-7 < wide < 0.2


class Odd(nn.Module):
    """A linear model with one odd step before it."""

    def __init__(self, step):
        super().__init__()
        self.step, self.linear = step, nn.Linear(64, 3)

    def forward(self, x):
        return self.linear(self.step(x.flatten(1)))


class Floor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x * 32).floor() / 32


@pytest.mark.parametrize(
    ("step", "word"),
    [
        (torch.sigmoid, "sigmoid"),
        (nn.functional.normalize, "normalize"),
        (lambda x: x * x, "two values that depend on the image"),
        (lambda x: x / x.mean((1,), keepdim=True), "two values that depend on the image"),
        (lambda x: x if x[0, 0] > 0 else -x, "no bound"),
        (lambda x: x[:, torch.randperm(64)] if bool(x) else x, "decides by the image's values"),
        (Floor.apply, "floor"),
        (lambda x: x + x.low.new_zeros(1) / 0, "not numbers"),
        (lambda x: torch.dropout(x, 0.5, True), "dropout"),
        (nn.Dropout(0.5), "dropout in training mode"),
        (nn.BatchNorm1d(64), "the batch's own statistics"),
        (lambda x: x.numpy(), "numpy"),
        (lambda x: nn.functional.linear(x, x), "weights depend on the image"),
    ],
)
def test_what_has_no_rule_has_no_bound_by_name(step, word):
    with pytest.raises(NoBoundError, match=word):
        logits(Odd(step), torch.rand(2, 1, 8, 8), linf(0.1))


def test_l0_has_no_bound():
    with pytest.raises(NoBoundError, match="L0"):
        logits(net("cnn"), torch.rand(2, 1, 8, 8), ThreatModel.parse("l0:1"))


class Sly(nn.Linear):
    """Shows bounds another face than images."""

    def forward(self, x):
        return super().forward(x.flatten(1)) * (1 if isinstance(x, torch.Tensor) else 0.5)


def test_a_model_that_answers_otherwise_than_its_bounds_say_has_none():
    with pytest.raises(NoBoundError, match="outside of what its own forward allows"):
        certified(Sly(64, 3), torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), linf(0.01), 16)


def test_a_tie_is_not_certified():
    """Two classes with the same weights: the judge would take the first of them, whatever the image."""
    layer = nn.Linear(64, 3)
    layer.weight.data[1], layer.bias.data[1] = layer.weight.data[0], layer.bias.data[0]
    layer.bias.data[2] = -100
    module = nn.Sequential(nn.Flatten(), layer)
    x = torch.rand(5, 1, 8, 8)
    for label in (0, 1):
        found = logits(module, x, linf(0))
        assert (margins(found, torch.full((5,), label)) <= 0).all()


def test_differences_of_logits_are_bounded_together():
    """What all classes share cancels: a common weight of a hundred does not widen the margin of a linear model."""
    layer = nn.Linear(64, 2, bias=False)
    layer.weight.data[:] = 100
    layer.weight.data[0, 0] += 1
    x = torch.ones(1, 1, 8, 8)
    found = logits(nn.Sequential(nn.Flatten(), layer), x, linf(0.1))
    assert found.high[0, 1] - found.low[0, 0] > 500
    assert 0.7 < margins(found, torch.tensor([0])).item() <= 0.9
