import numpy as np
import pytest
import torch
from scipy.fft import idctn
from torch import nn

from attacks.simba import _axes, odds, order, simba
from bench import Draws


@pytest.mark.parametrize("basis", ["pixel", "dct"])
@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 1, 1), (1, 6, 9), (2, 9, 3)])
def test_an_order_is_a_permutation_and_each_image_has_its_own(basis, shape):
    """Every coordinate once."""
    drawn = order(torch.zeros(3, *shape), Draws(0, torch.arange(3)), basis)
    count = shape[0] * shape[1] * shape[2]
    assert drawn.sort(1).values.tolist() == [list(range(count))] * 3
    assert count == 1 or not torch.equal(drawn[0], drawn[1])


def test_low_frequencies_come_first():
    """In the DCT: all of the first 7 by 7 of every channel, then those of 14 by 14, and so on."""
    drawn = order(torch.zeros(2, 3, 16, 16), Draws(0, torch.arange(2)), "dct")
    side = torch.maximum(drawn // 16 % 16, drawn % 16) // 7
    assert (side.diff(dim=1) >= 0).all()
    assert side[0].bincount().tolist() == [3 * 49, 3 * (196 - 49), 3 * (256 - 196)]
    assert (order(torch.zeros(2, 3, 16, 16), Draws(0, torch.arange(2)), "pixel")[:, :147] % 16).max() == 15


@pytest.mark.parametrize("length", [1, 2, 7, 32])
def test_the_cosines_are_orthonormal_and_those_of_the_dct(length):
    """And the pixels' axes are the unit vectors."""
    waves = _axes(length, "dct")
    assert torch.allclose(waves @ waves.T, torch.eye(length), atol=1e-6)
    assert np.allclose(waves.numpy(), idctn(np.eye(length), axes=[1], norm="ortho"), atol=1e-6)
    assert torch.equal(_axes(length, "pixel"), torch.eye(length))


def test_log_odds_see_what_a_probability_near_one_hides():
    """log((1 - p) / p), by hand; at a margin of 60 the softmax is 1 in float64, and the odds still change."""
    z = torch.tensor([[2.0, 0, 0], [0.0, 1, 0]])
    p = z.double().softmax(1).gather(1, torch.tensor([[0], [2]]))[:, 0]
    assert torch.allclose(odds(z, torch.tensor([0, 2])), ((1 - p) / p).log())
    sure, surer = odds(torch.tensor([[60.0, 0], [61.0, 0]]), torch.tensor([0, 0])).tolist()
    assert surer < sure


def naive(net, x, y, orders, norm, eps, step, queries, basis):
    """SimBA on one image at a time, with probabilities and cosines of scipy's, and as many questions."""
    found = []
    for i in range(len(x)):
        image, asked, place = x[i].double(), 1, 0
        now = image

        def probability(candidate, label=int(y[i])):
            logits = net(candidate[None].float())[0].double()
            return logits.softmax(0)[label].item(), int(logits.argmax()) != label

        def inside(candidate, image=image):
            if norm == "linf":
                return candidate.clamp(image - eps, image + eps).clamp(0, 1)
            delta = candidate - image
            return (image + delta * min(1, eps / max(delta.norm().item(), 1e-12))).clamp(0, 1)

        best, fell = probability(now)
        while asked < queries and not fell:
            unit = np.zeros(x.shape[1:])
            unit.reshape(-1)[orders[i, place % orders.shape[1]]] = step
            move = torch.from_numpy(idctn(unit, axes=[1, 2], norm="ortho") if basis == "dct" else unit)
            place += 1
            for way in (-1, 1):
                if asked == queries or fell:
                    break
                new = inside(now + way * move)
                value, fell = probability(new)
                asked += 1
                if value < best or fell:
                    now, best = new, value
                    break
        found.append(now)
    return torch.stack(found)


@pytest.mark.parametrize("basis", ["pixel", "dct"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 1.0)])
def test_it_is_the_naive_search(lab, basis, norm, eps):
    """Written from the paper, image by image: the same images, some fallen and some not."""
    net = lab.small_net(classes=4)
    torch.manual_seed(2)
    x = torch.rand(12, 3, 8, 8)
    y = net(x).argmax(1)
    ours, _ = lab.call(simba, net, x, y, f"{norm}:{eps}", queries=90, basis=basis)
    orders = order(x, Draws(0, torch.arange(12), "simba").at("order"), basis)
    theirs = naive(net, x, y, orders, norm, eps, 0.2, 90, basis)
    fell = net(ours).argmax(1) != y
    assert 0 < fell.sum() < 12
    assert torch.allclose(ours.double(), theirs, atol=1e-5)


def test_every_sign_of_a_linear_model_is_found(lab):
    """One pass over the pixels, two questions each at most: the image is then the corner of the ball that is best."""
    torch.manual_seed(0)
    weight = torch.randn(2, 27)
    net = lab.Linear(weight, torch.tensor([50.0, 0]))
    x = 0.3 + 0.4 * torch.rand(4, 3, 3, 3)
    found, _ = lab.call(simba, net, x, torch.zeros(4, dtype=torch.long), "linf:0.1", queries=1 + 2 * 27)
    assert torch.allclose(found, x + 0.1 * (weight[1] - weight[0]).sign().view(3, 3, 3), atol=1e-6)


def test_each_move_that_is_kept_lowers_the_true_probability(lab):
    """On a linear model in L2, beyond the ball's edge too: more questions, less probability."""
    torch.manual_seed(1)
    net = lab.Linear(torch.randn(4, 48) / 7, torch.tensor([4.0, 0, 0, 0]))
    x, y = torch.rand(6, 3, 4, 4), torch.zeros(6, dtype=torch.long)
    before = net(x).softmax(1)[:, 0]
    changed = 0
    for queries in range(2, 60, 3):
        found, _ = lab.call(simba, net, x, y, "l2:0.5", queries=queries)
        now = net(found).softmax(1)[:, 0]
        assert (now <= before + 1e-6).all()
        changed += int((now < before).sum())
        before = now
    assert changed > 50
    assert (found - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 1, 1)])
@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.4"])
@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_questions_are_counted_and_stay_in_the_ball(lab, shape, threat, basis):
    """As many as the budget has, on a model that never falls and never changes: both ways of every coordinate."""

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, images):
            self.seen.append(images.clone())
            return lab.Constant(0)(images)

    x = torch.rand(1, *shape).round()
    for queries in (1, 2, 70):
        spy = Watched()
        _, (forwards, _) = lab.call(simba, spy, x, torch.tensor([0]), threat, tile=1, queries=queries, basis=basis)
        assert forwards.tolist() == [queries] == [simba.cost(**simba.recipe(queries=queries).settings)[0]]
        asked = torch.cat(spy.seen)
        size = (asked - x).flatten(1).norm(dim=1, p=torch.inf if "linf" in threat else 2)
        assert asked.min() >= 0
        assert asked.max() <= 1
        assert size.max() <= float(threat[threat.index(":") + 1 :]) + 1e-6
    if basis == "pixel":  # each value in turn, down and up
        moved = (asked != x).flatten(1).sum(1)
        assert moved.max() == 1
