import pytest
import torch
from torch import nn

from attacks.apgd import apgd, apgd_ce, apgd_t
from attacks.apgd_l1 import stages
from attacks.losses import cross_entropy
from bench import Draws, ThreatModel
from bench.victim import Victim


def test_three_balls_share_the_steps():
    """30, 30 and 40 %, rounded up as the authors' code does; the threat's own ball gets something in any case."""
    assert {n: stages(n) for n in (100, 20, 15, 10, 7, 5)} == {
        100: (30, 30, 40), 20: (6, 6, 8), 15: (5, 5, 5), 10: (3, 3, 4), 7: (3, 3, 1), 5: (2, 2, 1),
    }  # fmt: skip
    assert [stages(n) for n in range(5)] == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (1, 1, 1), (1, 1, 2)]


def nearest(z, x, eps):
    """The nearest image of the L1 ball to z, by halving the threshold a hundred times."""
    delta = z - x
    cap = torch.where(delta > 0, 1 - x, x)
    low, high = 0.0, delta.abs().max().item()

    def shrunk(t):
        return torch.minimum((delta.abs() - t).clamp_min(0), cap)

    if shrunk(0).sum() <= eps:
        return x + shrunk(0) * delta.sign()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if shrunk(middle).sum() > eps else (low, middle)
    return x + shrunk(high) * delta.sign()


def plain(net, x, y, noise, eps, steps):
    """All losses of Auto-PGD in L1 on one image (1, C, H, W), from the larger balls inwards."""
    losses, best = [], x + noise
    for radius, asked in zip((3 * eps, 2 * eps, eps), stages(steps), strict=True):
        now, top, size = nearest(best, x, radius), None, radius
        best = now
        old = int((now != x).sum())
        share = old / x.numel() / 1.5
        every = max(int(0.04 * asked), 1)
        for i in range(asked):
            z = now.clone().requires_grad_()
            loss = nn.functional.cross_entropy(net(z), y)
            grad = torch.autograd.grad(loss, z)[0]
            losses.append(loss.item())
            if top is None or loss.item() > top[0]:
                top = (loss.item(), now, grad)
            best = top[1]
            if i and i % every == 0:
                changed = int((best != x).sum())
                share = changed / x.numel() / 1.5
                if changed / old < 0.95:
                    size, now, grad = radius, best, top[2]
                else:
                    size = max(size / 1.5, radius / 10)
                old = changed
            ranked = sorted(grad.abs().flatten().tolist())
            least = ranked[min(max(int((1 - share) * len(ranked) + 1e-9), 0), len(ranked) - 1)]
            step = grad.sign() * (grad.abs() >= least)
            now = nearest(now + size * step / step.abs().sum(), x, radius)
    return losses


@pytest.mark.parametrize("steps", [30, 60])
@pytest.mark.parametrize("image", range(3))
def test_the_losses_are_those_of_a_plain_reading_of_the_algorithm(lab, image, steps):
    """One image at a time from the same noise, in float64; the two programs share only the number of steps a ball."""
    net = lab.small_net(seed=3).double()
    torch.manual_seed(5)
    x = torch.rand(3, 3, 8, 8).double()[image : image + 1]
    y = net(x).argmax(1)
    ahead = 9 * nn.functional.one_hot(y, 5)  # the true class wins by so much that the image stands to the end
    seen = []

    class Settled(nn.Module):
        def forward(self, x):
            return net(x) + ahead

    def watched(logits, y):
        value = cross_entropy(logits.double(), y)
        seen.append(value.item())
        return value

    victim = Victim(Settled(), tile=1, access="gradients", images=1, dtype=torch.float64)
    threat, draws = ThreatModel.parse("l1:4"), Draws(0, torch.tensor([image]), "apgd-ce")
    apgd(victim, x, y, threat, draws, watched, steps=steps)
    noise = draws.at("start").normal(3, 8, 8)
    expected = plain(lambda z: (net(z) + ahead).float().double(), x, y, noise, 4, steps)
    assert len(seen) == steps
    assert seen == pytest.approx(expected, rel=1e-7)
    assert len(set(seen)) > steps / 2


def test_what_falls_only_in_a_larger_ball_stands(lab):
    """Just within the distance of a linear model the climb goes through misread images, and returns none of them."""
    torch.manual_seed(0)
    weight = torch.randn(2, 192)
    x = 0.3 + 0.4 * torch.rand(6, 3, 8, 8)
    net = lab.Linear(weight, torch.tensor([0.5, 0.5]))
    y = net(x).argmax(1)
    away = lab.distance(weight, torch.tensor([0.5, 0.5]), x, y, "l1")
    asked = []

    class Watched(nn.Module):
        def forward(self, x):
            asked.append(net(x))
            return asked[-1]

    for factor in (0.99, 1.01):
        asked.clear()
        found = [
            lab.call(apgd_ce, Watched(), x[i : i + 1], y[i : i + 1], f"l1:{factor * away[i]:.9f}", tile=1)[0]
            for i in range(len(x))
        ]
        fell = net(torch.cat(found)).argmax(1) != y
        assert fell.tolist() == [factor > 1] * len(x)
        assert (torch.cat(asked).argmax(1) != y[0]).any()


def test_an_image_stops_at_its_first_misread_iterate_of_the_last_ball(lab):
    """On an always wrong model after the two larger balls and one question; and it pays for no further target."""
    x, wrong = torch.rand(4, 3, 8, 8), torch.ones(4, dtype=torch.long)
    _, (forwards, backwards) = lab.call(apgd_ce, lab.Constant(0), x, wrong, "l1:2", restarts=3)
    assert forwards.tolist() == backwards.tolist() == [61] * 4
    net = lab.small_net()
    found, (forwards, _) = lab.call(apgd_t, net, x, net(x).argmax(1), "l1:20", targets=3)
    assert (net(found).argmax(1) != net(x).argmax(1)).all()
    assert forwards.max() < 102
