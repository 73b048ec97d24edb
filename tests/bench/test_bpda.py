"""Layers without a gradient: hidden from gradient attacks, until they bring a stand-in."""

import pytest
import torch
from torch import nn

from attacks.pgd import cw
from attacks.square import square
from bench.bpda import Bpda
from bench.draws import Draws
from bench.threat import ThreatModel
from bench.victim import Victim


class Quantise(nn.Module):
    def forward(self, x):
        return (32 * x).floor() / 32


class Halve(nn.Module):
    def forward(self, x):
        return nn.functional.avg_pool2d(x, 2).round(decimals=1)


def test_the_answer_is_the_layers_and_the_gradient_the_stand_ins():
    """To the bit; without a gradient the stand-in is not even asked."""
    x = torch.rand(3, 2, 6, 6)
    z = x.clone().requires_grad_()
    soft = nn.AvgPool2d(2)
    layer = Bpda(Halve(), soft)
    assert torch.equal(layer(z), Halve()(x)) and torch.equal(layer(x), Halve()(x))
    direction = torch.randn(3, 2, 3, 3)
    (found,) = torch.autograd.grad(layer(z), z, direction)
    w = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(soft(w), w, direction)
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match=r"give it a stand-in of \(3, 2, 3, 3\)"):
        Bpda(Halve())(z)


def test_a_quantised_model_is_seen_through():
    """Steps hide the gradient: PGD on the margin fells next to nothing, Square many; through the identity PGD does."""
    torch.manual_seed(0)
    weight = torch.randn(5, 192) / 14
    end = nn.Sequential(nn.Flatten(), nn.Linear(192, 5, bias=False))
    end[1].weight.data = weight
    x = torch.rand(24, 3, 8, 8)
    hidden, open_ = (nn.Sequential(layer, end).requires_grad_(False) for layer in (Quantise(), Bpda(Quantise())))
    y = hidden(x).argmax(1)

    def fell(net, method, **settings):
        victim = Victim(net, tile=8, access=method.access, images=24)
        found = method(
            victim, x, y, ThreatModel.parse("linf:0.15"), Draws(0, torch.arange(24), method.name), **settings
        )
        return (hidden(found).argmax(1) != y).float().mean().item()

    assert torch.equal(hidden(x), open_(x))
    assert fell(hidden, cw) < 0.15
    assert fell(hidden, square, queries=300) > 0.6
    assert fell(open_, cw) > 0.9
