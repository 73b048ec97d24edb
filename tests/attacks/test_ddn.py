import math

import pytest
import torch

from attacks.ddn import ddn


def naive(net, x, y, *, steps, gamma=0.05, start=1.0, levels=0):
    """The authors' algorithm on one image, in float64: the nearest misread iterate, or None."""
    x, delta, length = x.double(), torch.zeros_like(x).double(), start
    worst, best, found = torch.maximum(x, 1 - x).norm().item(), math.inf, None
    for k in range(steps):
        now = (x + delta).requires_grad_()
        z = net(now[None])[0]
        (g,) = torch.autograd.grad(z.logsumexp(0) - z[y], now)
        broken = z.argmax().item() != y
        if broken and delta.norm().item() < best:
            best, found = delta.norm().item(), (x + delta).clone()
        delta = delta + (0.01 + 0.99 * (1 + math.cos(math.pi * k / steps)) / 2) * g / g.norm()
        length = min(length * (1 - gamma) if broken else length * (1 + gamma), worst)
        moved = x + delta * (length / delta.norm().item())
        if levels:
            moved = (moved * (levels - 1)).round() / (levels - 1)
        delta = moved.clamp(0, 1) - x
    return found


@pytest.mark.parametrize(
    ("settings", "close"),
    [({}, 1e-4), ({"start": 0.3, "gamma": 0.1}, 1e-4), ({"start": 50.0}, 1e-4), ({"levels": 16}, 0)],
)
def test_ddn_is_the_plain_algorithm(lab, settings, close):
    """The same distances as image by image in float64; images of few levels are the very same."""
    net = lab.small_net()
    torch.manual_seed(0)
    x = torch.rand(10, 3, 8, 8)
    y = net(x).argmax(1)
    found, away = lab.nearest(ddn, net, x, y, "l2", steps=40, **settings)
    theirs = [naive(net.double(), a, int(b), steps=40, **settings) for a, b in zip(x, y, strict=True)]
    assert away.isfinite().all()
    for ours, other in zip(found, theirs, strict=True):
        assert (ours - other).abs().max() <= close + 1e-7


def test_rounded_images_are_of_so_many_levels(lab):
    """Every value is a whole number of 255ths; by default it is not."""
    net = lab.small_net()
    x = (torch.rand(8, 3, 8, 8) * 255).round() / 255
    y = net(x).argmax(1)
    rounded, away = lab.nearest(ddn, net, x, y, "l2", levels=256)
    assert away.isfinite().all()
    assert (rounded * 255 - (rounded * 255).round()).abs().max() < 1e-4
    plain, nearer = lab.nearest(ddn, net, x, y, "l2")
    assert (plain * 255 - (plain * 255).round()).abs().max() > 0.1
    assert nearer.median() < away.median() + 0.01


def test_no_gradient_is_a_random_direction_of_each_image_s_own(lab):
    """From the centre of a sphere every direction is as good: the radius is found, in ways that differ by image."""
    net = lab.Sphere(torch.full((1, 5, 5), 0.5), 0.2)
    x, y = torch.full((3, 1, 5, 5), 0.5), torch.zeros(3, dtype=torch.long)
    found, away = lab.nearest(ddn, net, x, y, "l2")
    assert away.tolist() == pytest.approx([0.2] * 3, rel=0.01)
    ways = (found - x).flatten(1)
    assert torch.nn.functional.cosine_similarity(ways[0], ways[1], dim=0).abs() < 0.9
    steps = []

    class Flat(torch.nn.Module):
        def forward(self, x):
            steps.append(x.detach()[0].flatten() - 0.5)
            return torch.eye(2)[:1] + 0 * x.flatten(1)[:, :1]

    lab.call(ddn, Flat(), x[:1], y[:1], "l2", tile=1, steps=4, start=0.3)
    assert torch.nn.functional.cosine_similarity(steps[1], steps[2], dim=0) < 0.99
    assert torch.equal(found[1:], lab.call(ddn, net, x[1:], y[1:], "l2", ids=torch.tensor([1, 2]))[0])
    assert not torch.equal(found, lab.call(ddn, net, x, y, "l2", seed=1)[0])


def test_a_gradient_that_underflows_to_little_is_still_a_direction(lab):
    """Cross-entropy at large margins: whatever is left of the gradient above zero is brought to length 1."""
    net = lab.small_net()

    class Loud(torch.nn.Module):
        def forward(self, x):
            return 300 * net(x)

    x = torch.rand(8, 3, 8, 8)
    y = net(x).argmax(1)
    assert lab.nearest(ddn, Loud(), x, y, "l2")[1].isfinite().all()
