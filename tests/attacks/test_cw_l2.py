import math

import pytest
import torch
from torch import nn

from attacks.cw_l2 import cw_l2


def naive(net, x, y, *, rounds, steps, lr=0.01, weight=0.001, confidence=0.0, abort=True):
    """The attack on one image, in float64 and with torch's own Adam: the nearest misread iterate's distance."""
    x = x.double()
    start = torch.atanh((2 * x - 1) * (1 - 1e-6))
    low, high, c, best = 0.0, math.inf, weight, math.inf
    spent = 1
    for _ in range(rounds):
        change = torch.zeros_like(x, requires_grad=True)
        adam = torch.optim.Adam([change], lr=lr)
        fell, before = False, math.inf
        for k in range(steps):
            now = (torch.tanh(start + change) + 1) / 2
            z = net(now[None])[0]
            spent += 1
            others = max(z[j] for j in range(len(z)) if j != y)
            size = (now - x).square().sum()
            loss = size + c * (z[y] - others + confidence).clamp_min(0)
            if z[y] + confidence < others:
                fell, best = True, min(best, size.item() ** 0.5)
            if abort and k % max(steps // 10, 1) == 0:
                if loss.item() > 0.9999 * before:
                    break
                before = loss.item()
            adam.zero_grad()
            loss.backward()
            adam.step()
        if fell:
            high = min(high, c)
        else:
            low = max(low, c)
        c = (low + high) / 2 if high < math.inf else 10 * c
    return best, spent


@pytest.fixture(scope="module")
def scene():
    """A smooth net, images with black and white values, and its classes of them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(27, 16), nn.Tanh(), nn.Linear(16, 4)).requires_grad_(False)
    x = (2 * torch.rand(6, 3, 3, 3) - 0.5).clamp(0, 1)
    net[-1].weight *= 4
    net[-1].bias -= net(x).mean(0)
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("settings", [{}, {"abort": False}, {"confidence": 0.1}, {"lr": 0.05, "weight": 1.0}])
def test_cw_is_the_plain_algorithm(lab, scene, settings):
    """The same distances, and the same passes, as image by image in float64 with torch's Adam."""
    net, x, y = scene
    settings = {"rounds": 5, "steps": 50, "weight": 0.05} | settings
    _, away = lab.nearest(cw_l2, net.float(), x, y, "l2", **settings)
    _, (forwards, backwards) = lab.call(cw_l2, net, x, y, "l2", **settings)
    theirs = [naive(net.double(), a, int(b), **settings) for a, b in zip(x, y, strict=True)]
    assert away.tolist() == pytest.approx([best for best, _ in theirs], rel=5e-3)
    assert away.isfinite().sum() >= 5
    assert forwards.tolist() == [spent for _, spent in theirs]
    assert torch.equal(forwards, backwards + 1)
    net.float()


def test_more_rounds_are_no_worse_and_come_near_the_least(lab):
    """On a linear model, box included: within .5 % of the exact distance, where that is more than a few steps."""
    torch.manual_seed(1)
    net = lab.Linear(torch.randn(3, 48) / 7, torch.randn(3) / 2)
    x = (torch.randn(8, 3, 4, 4) * 0.4 + 0.5).clamp(0, 1)
    y = net(x).argmax(1)
    exact = lab.distance(net.weight, net.bias, x, y, "l2")
    found = [lab.nearest(cw_l2, net, x, y, "l2", rounds=r, steps=300, weight=0.01)[1] for r in (3, 5, 9)]
    assert (found[0] >= found[1]).all()
    assert (found[1] >= found[2]).all()
    assert (found[2] / exact - 1)[exact > 0.1].max() < 0.005
    assert (exact > 0.1).sum() >= 6


def test_the_weight_is_raised_tenfold_until_an_image_falls_and_then_bisected(lab):
    """On one value, whose boundary a weight of 1 crosses: the model is asked where the weights lead."""
    net = lab.Linear(torch.tensor([[0.0], [1.0]]), torch.tensor([0.6, 0.0]))
    x, y = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.long)
    away = [lab.nearest(cw_l2, net, x, y, "l2", rounds=r, steps=200, abort=False)[1].item() for r in (2, 3, 4)]
    # |d|^2 + c (0.1 - d) is least at d = c / 2 while that is below 0.1: weights .001, .01 and .1 do not cross.
    assert away[:2] == [math.inf, math.inf]
    assert away[2] == pytest.approx(0.1, rel=0.02)


def test_a_confident_image_is_misread_by_more(lab, scene):
    """By the margin asked for, and further away."""
    net, x, y = scene
    _, near = lab.nearest(cw_l2, net, x, y, "l2", rounds=5, steps=60, weight=0.05)
    sure, far = lab.nearest(cw_l2, net, x, y, "l2", rounds=5, steps=60, weight=0.05, confidence=0.2)
    told = far.isfinite()
    assert told.any()
    assert (far[told] > near[told]).all()
    z = net(sure[told])
    assert (z.amax(1) - z.gather(1, y[told, None])[:, 0] > 0.2).all()


def test_an_image_aborts_by_itself(lab, scene):
    """The passes and the image are those of the image alone, beside others that go on for longer."""
    net, x, y = scene
    settings = {"rounds": 3, "steps": 100, "weight": 0.1}
    found, (spent, _) = lab.call(cw_l2, net, x, y, "l2", **settings)
    assert len(set(spent.tolist())) > 1
    assert spent.max() < 1 + 300
    for i in range(len(x)):
        alone, (passes, _) = lab.call(cw_l2, net, x[i : i + 1], y[i : i + 1], "l2", ids=torch.tensor([i]), **settings)
        assert torch.equal(alone[0], found[i])
        assert passes.item() == spent[i]
