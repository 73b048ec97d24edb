import numpy as np
import pytest
import torch
from torch import nn

from attacks.mm import mm3, mm9, mm_plus, mma
from attacks.suites import FULL, MMA
from bench.outcomes import Outcome, next_question


@pytest.mark.parametrize(("attack", "settings"), [(mm3, {}), (mm9, {}), (mm_plus, {"steps": 4}), (mma, {})])
def test_the_passes_are_those_of_the_formula(lab, attack, settings):
    """On a model of ten classes that never falls."""
    x, y = torch.zeros(3, 1, 4, 4, dtype=torch.uint8) + 99, torch.zeros(3)
    verdict = lab.asked(attack, lab.Constant(0, classes=10), x, y, "linf:0.1", **settings)
    cost = attack.cost(**attack.recipe(**settings).settings)
    assert {(int(f) - 1, int(b)) for f, b in zip(verdict.forwards, verdict.backwards, strict=True)} == {cost}


def test_the_costs_at_the_defaults():
    """One clean forward; 20 or 100 steps a target; a look at each last image but the judge's (mma: at each)."""
    assert [a.cost(**a.defaults) for a in (mm3, mm9, mm_plus)] == [(63, 60), (189, 180), (909, 900)]
    assert mma.cost(**mma.defaults) == (64, 60)


@pytest.mark.parametrize(("classes", "targets"), [(2, 1), (3, 2), (10, 9), (12, 9), (200, 9)])
def test_any_number_of_classes(lab, classes, targets):
    """Nine targets, or as many as there are other classes."""
    x, y = torch.zeros(2, 3, 4, 4, dtype=torch.uint8) + 99, torch.zeros(2)
    net = lab.Constant(0, classes=classes)
    assert lab.asked(mm9, net, x, y, "linf:0.1", steps=2).forwards.tolist() == [1 + 2 * targets + targets] * 2
    few = min(targets, 3)
    assert lab.asked(mma, net, x, y, "linf:0.1", steps=2).forwards.tolist() == [1 + 3 * few + 1] * 2


def test_the_targets_are_tried_in_turn_while_an_image_stands(lab):
    """Only the third likeliest class can be reached: the climbs to the first two are spent before, and no fourth."""

    class Third(nn.Module):
        def forward(self, x):
            rise = x.flatten(1).mean(1)
            still = torch.zeros_like(rise)
            return torch.stack([still + 3, still + 2, still + 1, rise + 0.45, still - 4], 1)

    x, y = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4, dtype=torch.long)
    x[:2] -= 0.2
    _, (forwards, _) = lab.call(mm9, Third(), x, y, "linf:0.3", steps=4)
    assert forwards.tolist() == [1 + 4 * 4 + 3] * 4

    class Reached(Third):
        def forward(self, x):
            return super().forward(x) + 100 * (x.flatten(1).mean(1, keepdim=True) - 0.7).clamp_min(0) * torch.eye(5)[3]

    found, (forwards, _) = lab.call(mm9, Reached(), x, y, "linf:0.3", steps=4)
    reached = Reached()(found).argmax(1) == 3
    assert reached.tolist() == [False, False, True, True]
    assert forwards[reached].gt(1 + 2 * 5).all()
    assert forwards[reached].le(1 + 3 * 5).all()
    assert forwards[~reached].eq(1 + 4 * 4 + 3).all()


def naive(net, x, y, start, eps, step, steps):
    """PART's protocol on one image at a time: three climbs from one start, the largest last z_t - z_y wins."""
    found = []
    for i in range(len(x)):
        z = net(x[i : i + 1])[0].tolist()
        ranked = sorted((j for j in range(len(z)) if j != y[i]), key=lambda j: -z[j])[:3]
        candidates = []
        for t in ranked:
            now = start[i : i + 1]
            for _ in range(steps):
                now = now.detach().requires_grad_()
                logits = net(now)[0]
                (grad,) = torch.autograd.grad(-torch.relu(logits[y[i]] - logits[t] + 50), now)
                now = now.detach() + step * grad.sign()
                now = torch.min(torch.max(now, x[i : i + 1] - eps), x[i : i + 1] + eps).clamp(0, 1)
            logits = net(now)[0]
            candidates.append(((logits[t] - logits[y[i]]).item(), now))
        found.append(max(candidates, key=lambda c: c[0])[1])
    return torch.cat(found)


def test_mma_is_the_naive_protocol(lab):
    """With the hinge at 50, image by image: the same images, bar a sign where a gradient rounds to nothing."""
    net = lab.small_net(classes=6)
    torch.manual_seed(1)
    x = torch.rand(20, 3, 8, 8)
    y = net(x).argmax(1)
    y[:3] = (y[:3] + 1) % 6  # images that are misread to begin with are attacked like the others
    eps = 8 / 255
    start, _ = lab.call(mma, net, x, y, "linf:8/255", steps=0)
    assert (start - x).abs().amax((1, 2, 3)).min() > 0.9 * eps
    ours, _ = lab.call(mma, net, x, y, "linf:8/255")
    theirs = naive(net, x, y, start, eps, eps / 4, 20)
    assert torch.equal(net(ours).argmax(1), net(theirs).argmax(1))
    assert ((ours - theirs).abs() < 1e-6).float().mean() > 0.99


def test_the_column_of_part_asks_every_image():
    """Not strict: also images that the clean column lost; it stands in the suite `full`."""
    assert not MMA.strict
    assert "mma" in FULL.parts[0][0]
    asked, fell = np.ones(3, bool), np.array([True, False, True])
    nothing = Outcome(~asked, ~asked)
    question = next_question(MMA, Outcome(asked, fell), [nothing])
    assert question is not None
    assert question[1].tolist() == [True, True, True]
