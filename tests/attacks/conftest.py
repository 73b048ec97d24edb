"""Models whose answers are known, and the ways to run an attack on them."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from bench import Draws, Part, ThreatModel
from bench.evaluate import Subject, judge
from bench.victim import Victim


class Linear(nn.Module):
    """z = W x + b on flat images."""

    def __init__(self, weight, bias=None):
        super().__init__()
        self.weight = nn.Parameter(weight.float(), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(len(weight)) if bias is None else bias.float(), requires_grad=False)

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias


class Constant(nn.Module):
    """The same class for every image, and no gradient: what a gradient attack must survive."""

    def __init__(self, chosen, classes=3):
        super().__init__()
        self.register_buffer("logits", nn.functional.one_hot(torch.tensor(chosen), classes).float())

    def forward(self, x):
        return self.logits.expand(len(x), -1) + 0 * x.flatten(1)[:, :1]


class Sphere(nn.Module):
    """Class 0 inside a sphere and class 1 outside: z = (0, |x - centre|^2 - radius^2)."""

    def __init__(self, centre, radius):
        super().__init__()
        self.register_buffer("centre", centre)
        self.radius = radius

    def forward(self, x):
        out = (x - self.centre).flatten(1).square().sum(1) - self.radius**2
        return torch.stack([torch.zeros_like(out), out], 1)

    def distance(self, x, norm):
        """The exact distance (n,) of images inside to the sphere, in float64; the box binds in L0 alone."""
        u = (x.double() - self.centre.double()).flatten(1)
        missing = self.radius**2 - u.square().sum(1)
        match norm:
            case "l2":
                return self.radius - u.square().sum(1).sqrt()
            case "linf":  # d e^2 + 2 e |u|_1 = missing
                half = u.abs().sum(1)
                return ((half.square() + u.shape[1] * missing).sqrt() - half) / u.shape[1]
            case "l1":  # all on the value that is furthest out already: e^2 + 2 e max|u| = missing
                most = u.abs().amax(1)
                return (most.square() + missing).sqrt() - most
            case "l0":  # each channel of a pixel goes to the further edge of the box
                c = self.centre.double().flatten()
                gain = (c.maximum(1 - c).square() - u.square()).view(len(x), x.shape[1], -1).sum(1)
                gained = gain.sort(1, descending=True).values.cumsum(1)
                return 1.0 + (gained < missing[:, None]).sum(1)


def small_net(channels=3, size=8, classes=5, seed=0):
    """A convolutional net with random weights, made ready to be attacked."""
    torch.manual_seed(seed)
    half = (size + 1) // 2
    net = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * half * half, classes),
    )
    return net.eval().requires_grad_(False)


def call(attack, module, x, y, threat, *, ids=None, seed=0, tile=16, **settings):
    """The attack's images by a plain call, and what it spent: forwards and backwards (n,).

    Of a minimum-norm attack those in the ball, and else the image itself.
    """
    victim = Victim(module, tile=tile, access=attack.access, images=len(x))
    draws = Draws(seed, torch.arange(len(x)) if ids is None else ids, attack.name)
    threat = ThreatModel.of_cell(threat)
    if attack.goal == "in-ball":
        return attack(victim, x, y, threat, draws, **settings), victim.passes()
    found = attack(victim, x, y, threat.without_bound, draws, **settings)
    inside = threat.holds(threat.size(found.double() - x.double()))
    return torch.where(inside.view(-1, 1, 1, 1), found, x), victim.passes()


def asked(attack, module, x, y, threat, *, seed=0, tile=16, batch=64, order=None, **settings):
    """The judge's verdict on uint8 images at the places `order`; of a minimum-norm attack what fell in the ball."""
    threat = ThreatModel.of_cell(threat) if isinstance(threat, str) else threat
    minimum = attack.goal == "minimum-norm"
    verdict = judge(
        Subject(module, tile),
        attack.recipe(**settings),
        threat.without_bound if minimum else threat,
        Part(np.asarray(x), np.asarray(y, dtype=np.int64)),
        torch.arange(len(x)) if order is None else order,
        seed=seed,
        batch=batch,
        device=torch.device("cpu"),
    )
    if not minimum:
        return verdict
    assert torch.equal(verdict.fell, verdict.distance.isfinite())
    inside = threat.holds(verdict.distance.double())
    return replace(verdict, fell=inside, adversarial=verdict.adversarial[inside[verdict.fell]])


def distance(weight, bias, x, y, norm):
    """The exact distance (n,) of each image to another class of a linear model, box included; float64, inf if none."""
    channels = x.shape[1]
    weight, bias, x = weight.double(), bias.double(), x.double().flatten(1)
    z = x @ weight.T + bias
    found = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for j in range(len(weight)):
        w = weight[j] - weight[y]
        gap = z.gather(1, y[:, None])[:, 0] - z[:, j]
        cap = torch.where(w > 0, 1 - x, x)
        found = torch.where(y != j, torch.minimum(found, _reach(w.abs(), cap, gap, norm, channels)), found)
    return found


def _reach(w, cap, gap, norm, channels):
    """The least size of a perturbation in [0, cap] that gains `gap` at w each."""
    if norm == "l0":  # the pixels that gain most, all channels to the edge of the box
        gained = (w * cap).view(len(w), channels, -1).sum(1).sort(1, descending=True).values.cumsum(1)
        return torch.where(gained[:, -1] >= gap, 1.0 + (gained < gap[:, None]).sum(1), torch.inf).double()
    if norm == "l1":  # fill the steepest values first
        steep, order = w.sort(1, descending=True)
        caps = cap.gather(1, order)
        gained = (steep * caps).cumsum(1)
        full = (gained < gap[:, None]).sum(1).clamp_max(w.shape[1] - 1)
        before = torch.where(full > 0, gained.gather(1, (full - 1).clamp_min(0)[:, None])[:, 0], torch.zeros_like(gap))
        used = caps.cumsum(1).gather(1, full[:, None])[:, 0] - caps.gather(1, full[:, None])[:, 0]
        size = used + (gap - before) / steep.gather(1, full[:, None])[:, 0]
        return torch.where(gained[:, -1] >= gap, size, torch.inf)
    low, high = torch.zeros_like(gap), torch.full_like(gap, 1e4)
    for _ in range(100):
        middle = (low + high) / 2
        delta = (middle[:, None] if norm == "linf" else middle[:, None] * w).minimum(cap)
        short = (delta * w).sum(1) < gap
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    delta = (high[:, None] if norm == "linf" else high[:, None] * w).minimum(cap)
    size = delta.amax(1) if norm == "linf" else delta.square().sum(1).sqrt()
    return torch.where((w * cap).sum(1) >= gap, size, torch.inf)


def at_distance(weight, x, y, target, norm):
    """Move each image (n, d) away from all other classes, until its distance to them (no box) is `target`."""
    w = weight[None] - weight[y][:, None]
    size = w.abs().sum(2) if norm == "linf" else w.square().sum(2).sqrt()
    mine = nn.functional.one_hot(y, len(weight)).bool()

    def away(moved):
        gap = -(w * moved[:, None]).sum(2)
        return (gap / size).masked_fill(mine, torch.inf).amin(1)

    direction = (weight[y] - weight.mean(0)).sign()
    low, high = torch.full((len(x),), -0.3), torch.full((len(x),), 0.3)
    low, high = low.double(), high.double()
    for _ in range(60):
        middle = (low + high) / 2
        short = away(x + middle[:, None] * direction) < target
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    moved = x + high[:, None] * direction
    assert torch.allclose(away(moved), torch.full_like(low, target))
    return moved.float().view(-1, 3, 32, 32)


def ten_classes(norm, target, images=32):
    """A random linear model of ten classes, and images of 3,072 values at this distance from the nearest other class.

    They lie so far inside the box that it matters in L1 and L0 alone.
    """
    torch.manual_seed(0)
    weight = torch.randn(10, 3072).double() / 3072**0.5
    y = torch.arange(images) % 10
    x = at_distance(weight, 0.4 + 0.2 * torch.rand(images, 3072).double(), y, target, norm)
    return Linear(weight), x, y


def nearest(attack, module, x, y, norm, *, tile=32, **settings):
    """A minimum-norm attack's images, and their distances (n,) as the judge sees them: infinite where not misread."""
    found, _ = call(attack, module, x, y, norm, tile=tile, **settings)
    size = ThreatModel.of_cell(norm).size(found.double() - x.double())
    return found, size.where(module(found).argmax(1) != y, torch.inf)


def threat_of(norm, eps):
    """A threat of exactly this float; in L0 of the whole pixels in it."""
    return ThreatModel(norm, Fraction(int(eps) if norm == "l0" else float(eps)))


@pytest.fixture(scope="session")
def lab():
    """The helpers above: pytest imports test files by path, so they come as a fixture."""
    return type(
        "Lab",
        (),
        {
            "Linear": Linear,
            "Constant": Constant,
            "Sphere": Sphere,
            **{
                f.__name__: staticmethod(f)
                for f in (small_net, call, asked, distance, at_distance, ten_classes, nearest, threat_of)
            },
        },
    )


@pytest.fixture(autouse=True)
def _threads():
    """Two threads, whatever a test sets."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(2)
