"""SPSA, NES, SignHunter and noise: what they ask, and where."""

from itertools import islice

import pytest
import torch
from torch import nn

from attacks import spsa as spsa_module
from attacks.nes import nes
from attacks.noise import noise
from attacks.signhunter import blocks, signhunter
from attacks.spsa import signs, spsa
from bench import Draws

ALL = [
    (spsa, {"steps": 3, "pairs": 5}),
    (spsa, {"steps": 3, "pairs": 5, "keep": "any"}),
    (nes, {"queries": 100}),
    (nes, {"queries": 1}),
    (signhunter, {"queries": 77}),
    (noise, {"tries": 13}),
    (noise, {"tries": 13, "kind": "corners"}),
    (noise, {"tries": 1}),
]


def watched(module):
    """A module that keeps every image it is asked about, on tiles of which all rows are real."""

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, images):
            self.seen.append(images.clone())
            return module(images)

    return Watched()


@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 1, 1)])
@pytest.mark.parametrize("classes", [2, 3, 10, 12, 200])
@pytest.mark.parametrize(("method", "settings"), ALL)
def test_the_passes_are_those_of_the_formula(lab, method, settings, classes, shape):
    """On a model that never falls, of any number of classes, colour and one gray pixel."""
    x = torch.full((2, *shape), 99, dtype=torch.uint8)
    verdict = lab.asked(method, lab.Constant(0, classes=classes), x, torch.zeros(2), "linf:0.1", **settings)
    cost = method.cost(**method.recipe(**settings).settings)
    assert {(int(f) - 1, int(b)) for f, b in zip(verdict.forwards, verdict.backwards, strict=True)} == {cost}


def test_the_costs_at_the_defaults():
    """SPSA: 512 questions a step, or 256 in the other reading; NES: 161 steps of 31; Square's budget for the rest."""
    assert spsa.cost(**spsa.defaults) == (51_200, 0)
    assert spsa.cost(**{**spsa.defaults, "pairs": 128}) == (25_600, 0)
    assert spsa.cost(**{**spsa.defaults, "keep": "any"}) == (51_300, 0)
    assert nes.cost(**nes.defaults) == (161 * 31, 0)
    assert signhunter.cost(**signhunter.defaults) == (5001, 0)
    assert noise.cost(**noise.defaults) == (99, 0)


def test_signs_are_even_and_bits_of_their_own():
    """Each of 32 places in a word is +1 half of the time; more steps in one call are the same as one by one."""
    draws = Draws(0, torch.arange(4000))
    drawn = signs(draws, 3, 5, 5)
    assert drawn.abs().eq(1).all()
    assert drawn.mean(0).abs().max() < 0.08
    flat = drawn.flatten(1)
    correlation = (flat.T @ flat / len(flat)).fill_diagonal_(0)
    assert correlation.abs().max() < 0.09
    several = signs(draws[:3].at(step=range(2, 5)), 40)
    assert torch.equal(several[:, 1], signs(draws[:3].at(step=3), 40))


def test_spsa_asks_around_the_image_in_pairs(lab):
    """Each pair lies size away on either side; and the step is Adam's on the mean slope, by hand."""
    torch.manual_seed(0)
    net, x, y = lab.small_net(classes=3), torch.rand(1, 3, 8, 8), torch.tensor([0])
    y = net(x).argmax(1)
    spy = watched(net)
    found, _ = lab.call(spsa, spy, x, y, "linf:0.5", tile=1, steps=2, pairs=6, size=0.01, lr=0.02)
    asked = torch.cat(spy.seen).view(2, 2, 6, 3, 8, 8)
    now, mean, square = x, 0, 0
    for step in range(2):
        plus, minus = asked[step]
        v = (plus - now) / 0.01
        assert torch.allclose(v.abs(), torch.ones(()), atol=1e-3)
        assert torch.allclose(plus + minus, 2 * now.expand_as(plus), atol=1e-6)

        def f(images):
            z = net(images)
            return z.scatter(1, y.expand(len(z), 1), -torch.inf).amax(1) - z[:, y[0]]

        slope = (((f(plus) - f(minus)) / 0.02).view(-1, 1, 1, 1) * v.sign()).mean(0)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        change = 0.02 * (mean / (1 - 0.9 ** (step + 1))) / ((square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        now = (now + change).clamp(0, 1)
    assert torch.allclose(found, now, atol=1e-4)


def test_how_many_directions_are_drawn_at_once_changes_nothing(lab, monkeypatch):
    """One pair a call or all: the very same images."""
    net, x = lab.small_net(), torch.rand(5, 3, 8, 8)
    y = net(x).argmax(1)
    for method, settings in ((spsa, {"steps": 3, "pairs": 9}), (nes, {"queries": 60}), (noise, {"tries": 7})):
        together, _ = lab.call(method, net, x, y, "linf:0.02", **settings)
        monkeypatch.setattr(spsa_module, "VALUES", 1)
        monkeypatch.setattr("attacks.noise.VALUES", 1)
        alone, _ = lab.call(method, net, x, y, "linf:0.02", **settings)
        monkeypatch.undo()
        assert torch.equal(together, alone)


def test_spsa_last_and_any(lab):
    """ANY fells what LAST fells and stops early; an image misread from the start costs one question."""
    net = lab.small_net()
    torch.manual_seed(1)
    x = torch.rand(16, 3, 8, 8)
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 5
    settings = {"steps": 8, "pairs": 32}
    (last, spent), (first, saved) = (
        lab.call(spsa, net, x, y, "linf:0.03", keep=k, **settings) for k in ("last", "any")
    )
    fell_last, fell_any = net(last).argmax(1) != y, net(first).argmax(1) != y
    assert fell_last.sum() > 4
    assert not (fell_last & ~fell_any).any()
    assert spent[0].unique().tolist() == [8 * 64]
    assert saved[0][0] == 1
    assert torch.equal(first[0], x[0])
    assert saved[0][~fell_any].eq(8 * 65).all()


def test_score_attacks_find_the_way(lab):
    """On a random net where the gradient finds it in twenty steps."""
    net = lab.small_net()
    torch.manual_seed(3)
    x = torch.rand(16, 3, 8, 8)
    y = net(x).argmax(1)
    for method, settings in ((spsa, {"steps": 20, "pairs": 32}), (nes, {"queries": 1500}), (signhunter, {})):
        found, _ = lab.call(method, net, x, y, "linf:0.1", **settings)
        assert (net(found).argmax(1) != y).float().mean() > 0.9, method.name


@pytest.mark.parametrize("method", [nes, signhunter, noise])
def test_questions_stay_in_ball_and_box(lab, method):
    """Every image asked about, not only those that are returned; images at the border of the box."""
    x = torch.rand(3, 3, 4, 4).round()
    x[0] = 0.5
    for i in range(3):
        spy = watched(lab.Constant(0))
        settings = {"queries": 200} if method is not noise else {"tries": 20}
        lab.call(method, spy, x[i : i + 1], torch.tensor([0]), "linf:0.005", tile=1, **settings)
        asked = torch.cat(spy.seen)
        assert len(asked) == method.cost(**method.recipe(**settings).settings)[0]
        assert asked.min() >= 0
        assert asked.max() <= 1
        assert (asked - x[i]).abs().max() <= 0.005 + 1e-7


def test_signhunter_flips_all_then_halves_then_quarters():
    """Blocks of seven values, and again from the start."""
    first = [(again, b.start, b.stop) for again, b in islice(blocks(7), 15)]
    cuts = [(0, 7), (0, 4), (4, 8), (0, 2), (2, 4), (4, 6), (6, 8), *[(i, i + 1) for i in range(7)]]
    assert first == [*[(False, *c) for c in cuts], (True, 0, 7)]
    assert [(again, b.start, b.stop) for again, b in islice(blocks(1), 2)] == [(False, 0, 1), (True, 0, 1)]


def test_signhunter_recovers_every_sign_of_a_linear_model(lab):
    """One pass over blocks of one value suffices: the margin is then the best in the ball, none higher."""
    torch.manual_seed(0)
    weight = torch.randn(2, 27)
    net = lab.Linear(weight, torch.tensor([100.0, 0]))
    x = 0.3 + 0.4 * torch.rand(4, 3, 3, 3)
    count = sum(1 for _ in islice(blocks(27), 1 + 2 + 4 + 7 + 14 + 27))
    found, _ = lab.call(signhunter, net, x, torch.zeros(4, dtype=torch.long), "linf:0.1", queries=count)
    best = x + 0.1 * (weight[1] - weight[0]).sign().view(3, 3, 3)
    assert torch.allclose(found, best, atol=1e-6)


def test_a_second_round_of_signhunter_begins_where_the_first_ended(lab):
    """After the first round the first question flips all: back to x, where nothing is clipped."""
    spy = watched(lab.Linear(torch.tensor([[0.0, 0], [1, -2]]), torch.tensor([9.0, 0])))
    x = torch.full((1, 1, 1, 2), 0.5)
    lab.call(signhunter, spy, x, torch.tensor([0]), "linf:0.25", tile=1, queries=4)
    asked = torch.cat(spy.seen).flatten(1)
    up, down = 0.75, 0.25
    expected = [[up, up], [down, down], [up, down], [up, up], [0.5, 0.5]]
    assert torch.allclose(asked, torch.tensor(expected))


def test_noise_is_what_it_says(lab):
    """Uniform fills the ball, corners are its corners, fewer tries are the first of more, and a fall ends it."""
    x = torch.full((40, 3, 8, 8), 0.5)
    y = torch.zeros(40, dtype=torch.long)
    uniform, _ = lab.call(noise, lab.Constant(0), x, y, "linf:0.1", tries=1)
    assert (uniform - x).abs().max() <= 0.1 + 1e-7
    assert (uniform - x).abs().mean().item() == pytest.approx(0.05, abs=0.002)
    assert len({tuple(u.flatten().tolist()) for u in uniform}) == 40
    corners, _ = lab.call(noise, lab.Constant(0), x, y, "linf:0.1", tries=1, kind="corners")
    assert torch.allclose((corners - x).abs(), torch.full_like(x, 0.1))
    assert (corners - x).mean().abs() < 0.005
    net = lab.Linear(torch.cat([torch.zeros(1, 192), torch.ones(1, 192)]), torch.tensor([0.0, -96 - 1.2]))
    few, spent = lab.call(noise, net, x, y, "linf:0.1", tries=4)
    many, more = lab.call(noise, net, x, y, "linf:0.1", tries=40)
    fell = net(few).argmax(1) == 1
    assert 0 < fell.sum() < 40
    assert torch.equal(few[fell], many[fell])
    assert (more[0][fell] <= 4).all()
    assert (net(many).argmax(1) == 1).sum() > fell.sum()
    assert spent[0].max() == 3
