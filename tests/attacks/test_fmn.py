import math

import pytest
import torch
from torch import nn

from attacks.fmn import _project_l2, fmn
from attacks.suites import FMN_100

NORMS = ["linf", "l2", "l1", "l0"]


def onto_simplex(sizes, total):
    """The nearest point of {p >= 0, sum p = total} to a vector whose sum is larger, by bisection on the threshold."""
    low, high = 0.0, sizes.max().item()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (sizes - middle).clamp_min(0).sum() > total else (low, middle)
    return (sizes - high).clamp_min(0)


def naive(net, x, y, norm, *, steps, alpha=1.0, gamma=0.05, seen=None):
    """The authors' algorithm on one image, from its description, in float64.

    The least distance, infinite if none; and the images asked about are added to the list `seen`.
    """
    x, delta = x.double(), torch.zeros_like(x).double()

    def size(d):
        return {
            "linf": d.abs().max(), "l2": d.square().sum().sqrt(), "l1": d.abs().sum(),
            "l0": (d != 0).any(0).sum().double(),
        }[norm].item()  # fmt: skip

    worst = size(torch.maximum(x, 1 - x))
    radius, best = 1.0 if norm == "l0" else math.inf, math.inf
    for k in range(steps):
        share = (1 + math.cos(math.pi * k / steps)) / 2
        now = (x + delta).requires_grad_()
        if seen is not None:
            seen.append(now.detach())
        z = net(now[None])[0]
        m = z[y] - max(z[j] for j in range(len(z)) if j != y)
        (g,) = torch.autograd.grad(-m, now)
        m, broken = m.item(), z.argmax().item() != y
        if broken:
            best = min(best, size(delta))
        gam = 0.001 + (gamma - 0.001) * share
        if norm == "l0":
            if broken:
                radius = max(min(radius - 1, math.floor(radius * (1 - gam)), best), 1)
            else:
                radius = max(radius + 1, math.floor(radius * (1 + gam)))
        elif broken:
            radius = min(radius * (1 - gam), best)
        elif best < math.inf:
            radius = radius * (1 + gam)
        else:
            dual = {"linf": g.abs().sum(), "l2": g.square().sum().sqrt(), "l1": g.abs().max()}[norm].item()
            radius = size(delta) + (abs(m) / dual if dual else math.inf)
        radius = min(radius, worst)
        delta = delta + alpha * (0.01 + 0.99 * share) * g / max(g.square().sum().sqrt().item(), 1e-12)
        if norm == "linf":
            delta = delta.clamp(-radius, radius)
        elif norm == "l2":
            delta = delta * min(1, radius / max(size(delta), 1e-300))
        elif norm == "l1":
            if size(delta) > radius:
                delta = delta.sign() * onto_simplex(delta.abs().flatten(), radius).view_as(delta)
        else:
            pixels = delta.square().sum(0).flatten().argsort(descending=True, stable=True)[: int(radius)]
            kept = torch.zeros(delta[0].numel(), dtype=torch.bool)
            kept[pixels] = True
            delta = delta * kept.view(delta.shape[1:])
        delta = (x + delta).clamp(0, 1) - x
    return best


def inner(count, *, classes=4, seed=0):
    """A smooth net in float64 and images so far inside the box that it never binds, and their classes."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, classes))
    x = 0.4 + 0.2 * torch.rand(count, 3, 4, 4)
    with torch.no_grad():
        net[-1].bias -= net(x).mean(0)
    return net.requires_grad_(False), x, net(x).argmax(1)


@pytest.mark.parametrize("norm", NORMS)
def test_fmn_is_the_plain_algorithm(lab, norm):
    """The distances that the authors' algorithm finds in float64, where the box never binds."""
    net, x, y = inner(8)
    for alpha in (0.1, 0.3):
        ours = lab.nearest(fmn, net.float(), x, y, norm, steps=60, alpha=alpha)[1]
        theirs = [naive(net.double(), a, int(b), norm, steps=60, alpha=alpha) for a, b in zip(x, y, strict=True)]
        assert math.isfinite(sum(theirs))
        assert ours.tolist() == pytest.approx(theirs, rel=2e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_every_iterate_is_the_plain_algorithm_s(lab, norm):
    """The model is asked about the same images, step by step: so step sizes and radii are the authors'."""
    net, x, y = inner(3)
    for i in range(3):
        asked, theirs = [], []

        class Watched(nn.Module):
            def forward(self, x):
                asked.append(x.detach().clone()[0])  # noqa: B023
                return net(x)

        net.float()
        lab.call(fmn, Watched(), x[i : i + 1], y[i : i + 1], norm, tile=1, steps=25, alpha=0.02, gamma=0.3)
        naive(net.double(), x[i], int(y[i]), norm, steps=25, alpha=0.02, gamma=0.3, seen=theirs)
        assert len(asked) == 25
        assert (torch.stack(asked) - torch.stack(theirs)).abs().max() < 1e-5


def at_the_edge(lab, classes=3):
    """A linear model, and images half of whose values are black or white."""
    torch.manual_seed(classes)
    net = lab.Linear(torch.randn(classes, 192) / 14, torch.randn(classes) / 2)
    x = (torch.randn(8, 3, 8, 8) * 0.6 + 0.5).clamp(0, 1)
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("norm", ["linf", "l0"])
def test_fmn_is_the_plain_algorithm_at_the_edge_of_the_box(lab, norm):
    """Likewise where half of the values cannot move as they should."""
    net, x, y = at_the_edge(lab)
    ours = lab.nearest(fmn, net, x, y, norm, steps=60)[1]
    theirs = [naive(net.double(), a, int(b), norm, steps=60) for a, b in zip(x, y, strict=True)]
    assert ours.tolist() == pytest.approx(theirs, rel=2e-4)
    assert norm != "l0" or len(set(theirs)) > 2


@pytest.mark.parametrize(("norm", "most"), [("l2", 1e-5), ("l1", 0.05)])
def test_in_l2_and_l1_the_box_is_seen(lab, norm, most):
    """There the plain algorithm clips a ball too small to cross the boundary and finds little; ours finds the least."""
    net, x, y = at_the_edge(lab)
    exact = lab.distance(net.weight, net.bias, x, y, norm)
    ours = lab.nearest(fmn, net, x, y, norm)[1]
    assert (ours / exact - 1).abs().max() < most
    theirs = [naive(net.double(), a, int(b), norm, steps=100) for a, b in zip(x, y, strict=True)]
    assert sum(map(math.isfinite, theirs)) <= len(x) / 2


def test_the_l2_projection_is_the_nearest_image_of_ball_and_box():
    """Against bisection on the factor in float64: points within both, in one of them and in neither."""
    torch.manual_seed(0)
    x = (torch.randn(64, 1, 4, 5) * 0.6 + 0.5).clamp(0, 1).double()
    ahead = x + torch.randn_like(x) * torch.logspace(-2, 1, 64).view(-1, 1, 1, 1)
    radius = (torch.rand(64) * 2).double()
    found = _project_l2(ahead, x, radius)
    low, high = torch.zeros(64).double(), torch.ones(64).double()
    for _ in range(100):
        middle = (low + high) / 2
        moved = (x + middle.view(-1, 1, 1, 1) * (ahead - x)).clamp(0, 1) - x
        fits = moved.flatten(1).norm(dim=1) <= radius
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    assert torch.allclose(found, (x + high.view(-1, 1, 1, 1) * (ahead - x)).clamp(0, 1), atol=1e-12)
    away = (found - x).flatten(1).norm(dim=1)
    assert (away <= radius * (1 + 1e-12)).all()
    assert 10 < (away < 0.999 * radius).sum() < 60


@pytest.mark.parametrize(
    ("norm", "settings", "median", "most"),
    [
        ("linf", {}, 3e-4, 4e-4),
        ("linf", {"alpha": 10.0}, 5e-5, 8e-5),
        ("linf", {"steps": 30}, 3e-3, 3.5e-3),
        ("l2", {}, 2e-6, 3e-6),
        ("l1", {}, 0.02, 0.03),
        ("l1", {"alpha": 10.0}, 3e-4, 6e-4),
        ("l0", {}, 0.1, 0.16),
    ],
)
def test_distances_on_linear_models_are_nearly_the_least(lab, norm, settings, median, most):
    """Ten classes: never below the exact distance, and above it by what is known; the margin may miss the nearest."""
    net, x, y = lab.ten_classes(norm if norm == "l2" else "linf", 0.5 if norm == "l2" else 8 / 255)
    exact = lab.distance(net.weight, net.bias, x, y, norm)
    away = lab.nearest(fmn, net, x, y, norm, **settings)[1]
    over = away[away.isfinite()] / exact[away.isfinite()] - 1
    assert len(over) == 32
    assert over.min() >= -1e-4
    assert over.median() <= median
    assert (over <= most).float().mean() >= 0.9
    assert over.max() < 0.2


def test_the_column_is_the_papers():
    """FMN-100: the defaults."""
    assert FMN_100.attacks == ("fmn(steps=100)",)
    assert fmn.defaults == {"steps": 100, "alpha": 1.0, "gamma": 0.05}
    assert fmn.cost(**fmn.defaults) == (100, 100)
