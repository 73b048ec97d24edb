"""HopSkipJump and the boundary attack beside plain loops over one image in float64, written from the papers."""

import math
from contextlib import suppress

import numpy as np
import pytest
import torch

from attacks.boundary import boundary
from attacks.hopskipjump import hopskipjump
from bench import Draws, ThreatModel
from bench.victim import Victim


class OutOfQuestionsError(Exception):
    pass


class Oracle:
    """Answers about one image, until the budget is spent; keeps the nearest misread image."""

    def __init__(self, net, image, label, norm, queries):
        self.net, self.image, self.label, self.left = net, image.double().numpy(), label, queries
        self.norm, self.nearest = norm, (math.inf, image)

    def size(self, candidate):
        delta = candidate.astype(np.float32).astype(np.float64) - self.image
        return np.abs(delta).max() if self.norm == "linf" else math.sqrt((delta**2).sum())

    def __call__(self, candidate, *, keep=True):
        if not self.left:
            raise OutOfQuestionsError
        self.left -= 1
        asked = torch.from_numpy(candidate.astype(np.float32))
        misread = int(self.net(asked[None]).argmax()) != self.label
        if misread and keep and self.size(candidate) < self.nearest[0]:
            self.nearest = (self.size(candidate), asked)
        return misread

    def between(self, end, share):
        """On the line for L2; clipped to a smaller ball for Linf."""
        if self.norm == "l2":
            return self.image + share * (end - self.image)
        radius = share * np.abs(end - self.image).max()
        return np.clip(end, self.image - radius, self.image + radius)

    def halve(self, end, gap, between):
        low, high = 0.0, 1.0
        while high - low > gap:
            middle = (low + high) / 2
            if self(between(end, middle)):
                high = middle
            else:
                low = middle
        return between(end, high).astype(np.float32).astype(np.float64)

    def start(self, draws):
        """The first misread noise, brought to a thousandth of its way; here fine noise suffices."""
        self(self.image)
        turn = 0
        while not self(noise := draws.at("noise", step=turn).uniform(*self.image.shape)[0].double().numpy()):
            turn += 1
            assert turn < 1
        return self.halve(noise, 0.001, lambda end, share: self.image + share * (end - self.image))


def slow_hopskipjump(oracle, draws):
    """Algorithm 2 of arXiv:1904.02144."""
    count = oracle.image.size
    gap = min(count ** (-1.5 if oracle.norm == "l2" else -2.0), 0.001)
    far = oracle.start(draws)
    now, turn = oracle.halve(far, gap, oracle.between), 0
    while True:
        turn += 1
        probes = int(100 * math.sqrt(turn))
        if oracle.left <= probes:
            return
        delta = 0.1 if turn == 1 else max(oracle.size(far) / count, 2**-20 * math.sqrt(count))
        phi, moved = [], []
        for k in range(probes):
            here = draws.at(f"probe {turn}", step=k)
            v = here.normal(*now.shape) if oracle.norm == "l2" else 2 * here.uniform(*now.shape) - 1
            v = v[0].double().numpy()
            probe = np.clip(now + delta * v / np.linalg.norm(v), 0, 1).astype(np.float32).astype(np.float64)
            phi.append(1.0 if oracle(probe, keep=False) else -1.0)
            moved.append((probe - now) / delta)
        phi = np.array(phi)
        if abs(phi.mean()) < 1:
            phi -= phi.mean()
        slope = np.tensordot(phi, np.array(moved), 1)
        slope = slope / np.linalg.norm(slope) if oracle.norm == "l2" else np.sign(slope)
        length = oracle.size(now) / math.sqrt(turn)
        while not oracle(far := np.clip(now + length * slope, 0, 1).astype(np.float32).astype(np.float64)):
            length /= 2
        now = oracle.halve(far, gap, oracle.between)


def slow_boundary(oracle, draws):
    """Algorithm 1 of arXiv:1712.04248, with the rules for the two steps as foolbox has them."""
    x, now = oracle.image, oracle.start(draws)
    sideways = inwards = 0.01
    around, ahead, step = [], [], 0
    while inwards >= 1e-7:
        step += 1
        away, far = now - x, np.linalg.norm(now - x)
        eta = draws.at("step", step=step).normal(*x.shape)[0].double().numpy()
        eta -= (eta * away).sum() / far**2 * away
        eta *= sideways * far / np.linalg.norm(eta)
        sphere = np.clip(x + (away + eta) / math.sqrt(1 + sideways**2), 0, 1)
        near = np.linalg.norm(sphere - x)
        new = sphere + max(inwards * far + near - far, 0) / near * (x - sphere)
        new = np.clip(new, 0, 1).astype(np.float32).astype(np.float64)
        looks = step % 10 == 0 and oracle.left > 1
        hit = oracle(new)
        if hit and np.linalg.norm(new - x) < far:
            now = new
        if looks:
            around, ahead = [*around, oracle(sphere)][-100:], [*ahead, hit][-30:]
            if len(around) == 100 and not 0.2 <= np.mean(around) <= 0.5:
                factor = 1.5 if np.mean(around) > 0.5 else 1 / 1.5
                sideways, inwards, around = sideways * factor, inwards * factor, []
            if len(ahead) == 30 and not 0.1 <= np.mean(ahead) <= 0.25:
                inwards, ahead = inwards * (1.5 if np.mean(ahead) > 0.25 else 1 / 1.5), []


@pytest.mark.parametrize(
    ("attack", "slow", "norm", "queries"),
    [
        (hopskipjump, slow_hopskipjump, "l2", 900),
        (hopskipjump, slow_hopskipjump, "linf", 900),
        (boundary, slow_boundary, "l2", 1500),
    ],
)
def test_it_is_the_plain_loop(lab, attack, slow, norm, queries):
    """The same questions to the last one, and the same nearest image but for rounding; images near the box's border."""
    net = lab.small_net(channels=1, size=5)
    torch.manual_seed(5)
    x = (2 * torch.rand(60, 1, 5, 5) - 0.5).clamp(0, 1)
    net[-1].bias -= net(x).mean(0)
    draws = Draws(3, torch.arange(60), attack.name)
    y = net(x).argmax(1)
    started = net(draws.at("noise").uniform(1, 5, 5)).argmax(1) != y
    rows = started.nonzero()[:3, 0]
    victim = Victim(net, tile=16, access="labels", images=3)
    found = attack(victim, x[rows], y[rows], ThreatModel.of_cell(norm), draws[rows], queries=queries)
    spent = victim.passes()[0].tolist()
    for i, row in enumerate(rows.tolist()):
        oracle = Oracle(net, x[row], int(y[row]), norm, queries)
        with suppress(OutOfQuestionsError):
            slow(oracle, draws[rows[i : i + 1]])
        assert spent[i] == queries - oracle.left
        distance, nearest = oracle.nearest
        assert oracle.size(found[i].double().numpy()) == pytest.approx(distance, rel=1e-5)
        assert torch.allclose(found[i], nearest, atol=1e-4)
