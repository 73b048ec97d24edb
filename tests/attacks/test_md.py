import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from attacks.md import length, md, mdmt, targets
from attacks.pgd import pgd
from bench import Draws, ThreatModel, UsageError
from bench.victim import Victim


def test_steps_are_as_long_as_published():
    """Of 50 steps, the loss changing at 20: by hand, as shares of eps."""
    lengths = [length(i, 50, 20) for i in range(50)]
    known = {0: 1 + math.cos(math.pi / 30), 1: 2, 16: 1, 20: 0.5933, 21: 2, 36: 1, 46: 0.1340, 49: 0.0219}
    assert [lengths[i] for i in known] == pytest.approx(list(known.values()), abs=5e-5)
    assert lengths[1:21] == sorted(lengths[1:21], reverse=True)
    assert lengths[21:] == sorted(lengths[21:], reverse=True)


def met(attack, module, x, y, eps, **settings):
    """Every image that the model is asked about, one image attacked, in order."""
    seen = []

    class Watched(nn.Module):
        def forward(self, images):
            seen.append(images.detach().clone())
            return module(images)

    threat = ThreatModel("linf", Fraction(eps))
    victim = Victim(Watched(), tile=1, access="gradients", images=1)
    attack(victim, x, y, threat, Draws(0, torch.tensor([3]), attack.name), **settings)
    return torch.cat(seen)


class Slopes(nn.Module):
    """Four logits of four pixels, each with slopes of its own; class 0 wins by far, whatever the image."""

    weight = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1], [-1, 1, 1, -1], [0, 0, 0, 1]])
    bias = torch.tensor([9.0, 3, 2, 1])

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias


MIDDLE, ZERO = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])


def clipped(start, directions, eps, steps, change):
    """The iterates that these directions give by hand, step by step."""
    now, found = start, [start]
    for i in range(steps - 1):
        now = (now + eps * length(i, steps, change) * directions[i].view_as(now)).clamp(0.5 - eps, 0.5 + eps)
        found.append(now)
    return torch.cat(found)


def test_the_two_searches_climb_what_the_code_climbs():
    """First z_y up; then -z_y in one search and the best other logit in the other; then the margin."""
    eps, steps, change = 0.01, 7, 4
    seen = met(md, Slopes(), MIDDLE, ZERO, eps, steps=steps, change=change)
    assert len(seen) == 2 * steps + 1
    w = Slopes.weight
    for search, second in enumerate([-w[0], w[1]]):
        first = search * (steps + 1)  # a look at the last image lies between the searches
        directions = [w[0].sign(), *[second.sign()] * (change - 1), *[(w[1] - w[0]).sign()] * (steps - change)]
        expected = clipped(seen[first : first + 1], directions, eps, steps, change)
        assert torch.allclose(seen[first : first + steps], expected, atol=1e-6)
    assert not torch.equal(seen[0], seen[steps + 1])  # each has a start of its own


def test_many_targets_climb_the_target_in_turn():
    """Of four classes: three others, the smallest clean logit first, two searches each, after one clean forward."""
    eps, steps, change = 0.01, 5, 2
    seen = met(mdmt, Slopes(), MIDDLE, ZERO, eps, steps=steps, change=change)
    assert len(seen) == 1 + 6 * steps + 5
    assert torch.equal(seen[:1], MIDDLE)
    w = Slopes.weight
    for turn in range(6):
        target = w[3 - turn // 2]
        first = 1 + turn * (steps + 1)
        second = (-w[0], target)[turn % 2]
        directions = [w[0].sign(), *[second.sign()] * (change - 1), *[(target - w[0]).sign()] * (steps - change)]
        expected = clipped(seen[first : first + 1], directions, eps, steps, change)
        assert torch.allclose(seen[first : first + steps], expected, atol=1e-6), turn


def test_the_targets_are_those_of_the_code():
    """At ten classes all ten, 9th largest to largest, then the smallest; else the nine best others or all others."""
    z = torch.tensor([[0.0, 9, 1, 8, 2, 7, 3, 6, 4, 5]])
    y = torch.tensor([1])
    assert targets(z, y, true_class=True).tolist() == [[2, 4, 6, 8, 9, 7, 5, 3, 1, 0]]
    assert targets(z, y, true_class=False).tolist() == [[0, 2, 4, 6, 8, 9, 7, 5, 3]]
    more = torch.cat([z, torch.tensor([[-1.0, 0.5]])], 1)
    assert targets(more, y, true_class=True).tolist() == [[11, 2, 4, 6, 8, 9, 7, 5, 3]]
    assert targets(z[:, :3], y, true_class=True).tolist() == [[0, 2]]
    assert targets(z[:, :2], y, true_class=True).tolist() == [[0]]
    assert targets(torch.zeros(1, 4), y, true_class=True).tolist() == [[3, 2, 0]]  # ties keep the classes' order


def test_only_images_in_the_box_count(lab):
    """A model whose class changes only outside [0, 1] stays right; the authors' code counts such starts."""

    class Outside(nn.Module):
        def forward(self, x):
            out = ((x - 1).clamp_min(0) + (-x).clamp_min(0)).flatten(1).sum(1)
            return torch.stack([torch.full_like(out, 1e-9), out], 1)

    x = torch.tensor([0, 255], dtype=torch.uint8).repeat(4, 1, 2, 1)
    assert lab.asked(md, Outside(), x, torch.zeros(4), "linf:8/255").fell.sum() == 0
    assert lab.asked(mdmt, Outside(), x, torch.zeros(4), "linf:8/255").fell.sum() == 0
    beyond = x.float() / 255 + 0.01 * torch.tensor([-1, 1])
    assert (Outside()(beyond).argmax(1) == 1).all()


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize(
    ("attack", "settings"), [(md, {}), (mdmt, {}), (mdmt, {"true_class": False})], ids=["md", "mdmt", "mdmt9"]
)
def test_the_passes_are_those_of_the_formula(lab, attack, settings, restarts):
    """On a model of ten classes that never falls."""
    x, y = torch.zeros(3, 1, 4, 4, dtype=torch.uint8) + 99, torch.zeros(3)
    settings = {"steps": 5, "change": 2, "restarts": restarts, **settings}
    verdict = lab.asked(attack, lab.Constant(0, classes=10), x, y, "linf:0.1", **settings)
    cost = attack.cost(**attack.recipe(**settings).settings)
    assert {(int(f) - 1, int(b)) for f, b in zip(verdict.forwards, verdict.backwards, strict=True)} == {cost}


def test_the_costs_at_the_defaults():
    """Two passes and twenty of 50 steps; a look at the last image between searches, and the clean logits of mdmt."""
    assert md.cost(**md.defaults) == (101, 100)
    assert mdmt.cost(**mdmt.defaults) == (1020, 1000)
    assert mdmt.cost(**{**mdmt.defaults, "true_class": False}) == (918, 900)


@pytest.mark.parametrize(("classes", "searches"), [(2, 2), (3, 4), (10, 20), (12, 18), (200, 18)])
def test_any_number_of_classes(lab, classes, searches):
    """So many searches of one step, and looks between them; md always has two."""
    x, y = torch.zeros(2, 3, 4, 4, dtype=torch.uint8) + 99, torch.zeros(2)
    settings = {"steps": 1, "change": 0}
    verdict = lab.asked(mdmt, lab.Constant(0, classes=classes), x, y, "linf:0.1", **settings)
    assert verdict.forwards.tolist() == [1 + searches + searches - 1 + 1] * 2
    assert lab.asked(md, lab.Constant(0, classes=classes), x, y, "linf:0.1", **settings).forwards.tolist() == [4] * 2


def test_the_change_must_lie_before_the_end(lab):
    """The schedule divides by what is left."""
    for method in (md, mdmt):
        with pytest.raises(UsageError, match="the loss changes at step 20, which must lie below the 20 steps"):
            method.recipe(steps=20)


def test_more_fall_than_to_as_many_steps_of_pgd(lab):
    """On a random net whose cross-entropy saturates, where the terms apart still show the way."""
    net = lab.small_net()

    class Loud(nn.Module):
        def forward(self, x):
            return 1e5 * net(x)

    torch.manual_seed(3)
    x = torch.rand(16, 3, 8, 8)
    y = net(x).argmax(1)
    fell = []
    for attack in (pgd, md, mdmt):
        found, _ = lab.call(attack, Loud(), x, y, "linf:0.1")
        fell.append((net(found).argmax(1) != y).sum().item())
    assert fell[0] < 8
    assert fell[1:] == [16, 16]
