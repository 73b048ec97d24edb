"""Lean gradients: the same logits to the bit, and torch's own gradient within rounding."""

import copy

import pytest
import torch
from torch import nn

from bench.passes import lean

SHAPES = [  # channels in and out, kernel, stride, padding, side
    (1, 16, 4, 2, 1, 28), (16, 32, 4, 2, 1, 14), (3, 8, 3, 1, 1, 9), (5, 7, 3, 2, 1, 8), (5, 7, 3, 3, 2, 10),
    (2, 4, 5, 2, 0, 11), (6, 4, 1, 2, 0, 7), (4, 4, 1, 1, 0, 1), (8, 8, (3, 1), (2, 1), (1, 0), 6),
]  # fmt: skip


def gradient(module, x, direction):
    z = x.clone().requires_grad_()
    logits = module(z)
    return logits.detach(), torch.autograd.grad(logits, z, direction)[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_lean_convolution_is_the_plain_one(shape, bias):
    """Forward to the bit, gradient to rounding; also where the stride leaves a rest at the edge."""
    channels, out, kernel, stride, padding, side = shape
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, out, kernel, stride, padding, bias=bias).requires_grad_(False)
    quick = lean(copy.deepcopy(plain))
    x = torch.rand(6, channels, side, side)
    direction = torch.randn_like(plain(x))
    logits, expected = gradient(plain, x, direction)
    mine, found = gradient(quick, x, direction)
    assert torch.equal(mine, logits)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("channels", [2, 6])
def test_it_can_be_differentiated_again(channels):
    """Against finite differences, twice: a model may differentiate itself in its forward."""
    torch.manual_seed(0)
    net = lean(nn.Conv2d(channels, 3, 3, 2, 1).double().requires_grad_(False))
    x = torch.rand(2, channels, 5, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(net, x)
    assert torch.autograd.gradgradcheck(net, x)


@pytest.mark.parametrize("channels", [1, 8])
def test_a_gradient_has_the_same_bits_in_any_place_of_a_tile(channels):
    """In any order and among any neighbours."""
    torch.manual_seed(0)
    net = lean(nn.Sequential(nn.Conv2d(channels, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3)).requires_grad_(False))
    x = torch.rand(16, channels, 12, 12)
    direction = torch.randn_like(net(x))
    _, whole = gradient(net, x, direction)
    order = torch.randperm(16)
    _, shuffled = gradient(net, x[order], direction[order])
    assert torch.equal(shuffled, whole[order])
    others = torch.cat([x[:1], torch.rand(15, channels, 12, 12)])
    assert torch.equal(gradient(net, others, direction)[1][0], whole[0])


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
    ],
    ids=["groups", "dilated", "same", "reflect", "circular", "weight norm"],
)  # fmt: skip
def test_other_convolutions_are_left_as_they_are(convolution):
    """The same logits and gradients to the bit."""
    plain = copy.deepcopy(convolution).requires_grad_(False)
    quick = lean(convolution.requires_grad_(False))
    x = torch.rand(2, 4, 9, 9)
    direction = torch.randn_like(plain(x))
    for mine, expected in zip(gradient(quick, x, direction), gradient(plain, x, direction), strict=True):
        assert torch.equal(mine, expected)


def test_weights_that_learn_still_learn():
    """A module that is trained again after it was attacked gets the gradients of its weights."""
    net = lean(nn.Conv2d(3, 4, 3).requires_grad_(False)).requires_grad_(True)
    net(torch.rand(2, 3, 5, 5, requires_grad=True)).sum().backward()
    assert net.weight.grad is not None and net.bias.grad is not None
    assert net.weight.grad.abs().sum() > 0


def patched(how):
    """A convolution whose instance was given another forward."""
    convolution = nn.Conv2d(3, 4, 3)
    if how == "forward":
        convolution.forward = lambda x: nn.Conv2d.forward(convolution, 10 * x)
    else:
        own = convolution._conv_forward
        convolution._conv_forward = lambda x, weight, bias: own(x, 10 * weight, bias)
    return convolution


@pytest.mark.parametrize("how", ["forward", "_conv_forward"])
def test_what_an_instance_does_of_its_own_is_kept(how):
    """The same answer and gradient as before it was frozen."""
    net = patched(how).requires_grad_(False)
    x = torch.rand(2, 3, 6, 6)
    direction = torch.randn_like(net(x))
    expected = gradient(net, x, direction)
    for mine, plain in zip(gradient(lean(net), x, direction), expected, strict=True):
        assert torch.equal(mine, plain)


@pytest.mark.parametrize("channels", [2, 8])
def test_a_model_may_call_it_as_it_likes(channels):
    """By keyword, under autocast, under torch.func and vmap: as the plain convolution."""
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 4, 3).requires_grad_(False)
    quick = lean(copy.deepcopy(plain))
    x = torch.rand(3, channels, 6, 6)

    def total(net):
        return lambda x: net(input=x).square().sum()

    slopes = [torch.func.grad(total(net))(x) for net in (quick, plain)]
    assert torch.allclose(*slopes, atol=1e-4)
    each = [torch.func.vmap(torch.func.grad(lambda x, net=net: net(x[None]).sum()))(x) for net in (quick, plain)]
    assert torch.allclose(*each, atol=1e-5)
    found = []
    for net in (quick, plain):
        with torch.autocast("cpu", torch.bfloat16):
            z = x.clone().requires_grad_()
            found.append(torch.autograd.grad(net(z).float().sum(), z)[0])
    assert torch.equal(*found)
