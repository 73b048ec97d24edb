"""Attacks that an escalation asks: through stand-ins, which are found, and on a cross-entropy of level scale."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks.rescaled import levelled
from bench.bpda import Bpda
from bench.evaluate import Subject, judge
from bench.exam import Part
from bench.registry import plugins
from bench.see_through import seen_through
from bench.threat import ThreatModel
from bench.victim import freeze

CPU = torch.device("cpu")
SHAPE = (3, 8, 8)


class Quantise(nn.Module):
    def forward(self, x):
        return (32 * x).floor() / 32


class Raises(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(*_):
        raise RuntimeError("no way back")


class Turned(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(_, grad):
        return -grad


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


class Detached(nn.Module):
    def forward(self, x):
        return x.detach() * 0.9


def head():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5))


def stand_ins(module):
    return [name for name, child in module.named_modules() if isinstance(child, Bpda)]


@pytest.mark.parametrize("layer", [Quantise(), Detached(), Apply(Raises), Apply(Turned), nn.Sequential(Quantise())])
def test_layers_that_hide_their_gradient_are_found(layer):
    """Those that round, detach, raise in their backward or give the wrong one; within a block, the layer itself."""
    hidden = nn.Sequential(nn.Identity(), layer, nn.Tanh(), head())
    seen = seen_through(hidden, SHAPE, CPU)
    assert stand_ins(seen) == (["1.0"] if isinstance(layer, nn.Sequential) else ["1"])
    assert stand_ins(hidden) == []
    x = torch.rand(4, *SHAPE)
    assert torch.equal(seen(x), hidden(x))


def test_honest_layers_are_left_alone():
    """Convolutions, norms, activations and pools; then it is the module itself, as where stand-ins are declared."""
    honest = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.GELU(), nn.Softplus(), nn.MaxPool2d(3, 1, 1),
        nn.Hardtanh(-5, 5), nn.LayerNorm(8), head(), nn.Softmax(1),
    ).eval()  # fmt: skip
    assert seen_through(honest, SHAPE, CPU) is honest
    declared = nn.Sequential(Bpda(Quantise()), head())
    assert seen_through(declared, SHAPE, CPU) is declared


def fell(module, text, part, eps="0.15"):
    subject = Subject(freeze(module, CPU), 32)
    verdict = judge(
        subject, plugins().parse("attack", text), ThreatModel.parse(f"linf:{eps}"), part, torch.arange(len(part)),
        seed=0, batch=64, device=CPU,
    )  # fmt: skip
    return float(verdict.fell.float().mean())


def labelled(module, n=24):
    torch.manual_seed(1)
    x = (torch.rand(n, *SHAPE) * 255).byte()
    return Part(x.numpy(), module(x.float() / 255).argmax(1).numpy())


def test_a_climb_through_stand_ins_sees_through_a_quantiser():
    """PGD on the margin stands still; through the identity nearly all fall, as without the quantiser."""
    hidden, plain = nn.Sequential(Quantise(), head()), head()
    part = labelled(hidden)
    assert fell(hidden, "cw(steps=20, keep='any')", part) < 0.2
    assert fell(hidden, "bpda(steps=20)", part) > 0.8
    assert fell(plain, "bpda(steps=20)", part) == fell(plain, "cw(steps=20, step=0.125, keep='any')", part)


def test_the_scale_of_the_logits_is_the_attacks_own():
    """A model times 10,000 falls to it as the plain one does; PGD on the cross-entropy stands still."""

    class Times(nn.Sequential):
        def forward(self, x):
            return 1e4 * super().forward(x)

    part = labelled(head())
    plain = fell(head(), "pgd-rescaled(steps=20)", part, "0.05")
    assert plain > 0.3
    assert fell(Times(head()), "pgd-rescaled(steps=20)", part, "0.05") == pytest.approx(plain, abs=0.05)
    assert fell(Times(head()), "pgd(steps=20, keep='any')", part, "0.05") < plain - 0.2


def test_no_constant_on_the_logits_changes_the_level_cross_entropy():
    """Nor does a margin of zero raise; by hand, logits (2, 1) are (2, 1) over 1."""
    logits, y = torch.tensor([[2.0, 1.0], [0.0, 0.0]]), torch.tensor([0, 1])
    expected = torch.tensor([1 + torch.e, 2.0]).log() - torch.tensor([1.0, 0.0])
    assert torch.allclose(levelled(logits, y), expected)
    assert torch.allclose(levelled(1e4 * logits, y), expected)
