import pytest
import torch
from torch import nn

from attacks.fgsm import fgsm
from attacks.pgd import cw, pgd
from bench import Draws, ThreatModel
from bench.victim import Victim


@pytest.fixture(scope="module")
def easy(lab):
    """A net, 24 images and the classes it gives them."""
    net = lab.small_net()
    torch.manual_seed(1)
    x = torch.rand(24, 3, 8, 8)
    return net, x, net(x).argmax(1)


def naive(net, x, y, eps, step, steps, start, margin):
    """Ten lines of PGD in Linf."""
    now = start.clone()
    for _ in range(steps):
        now = now.detach().requires_grad_()
        z = net(now)
        if margin:
            others = z.clone()
            others[torch.arange(len(y)), y] = -torch.inf
            loss = (others.max(1).values - z[torch.arange(len(y)), y]).sum()
        else:
            loss = nn.functional.cross_entropy(z, y, reduction="sum")
        now = now.detach() + step * torch.autograd.grad(loss, now)[0].sign()
        now = torch.min(torch.max(now, x - eps), x + eps).clamp(0, 1)
    return now


@pytest.mark.parametrize(("attack", "margin"), [(pgd, False), (cw, True)])
def test_twenty_steps_are_the_textbook_ones(lab, easy, attack, margin):
    """Ten naive lines from the same start give the same images, bar a sign where a gradient rounds to nothing."""
    net, x, y = easy
    eps = 8 / 255
    start, _ = lab.call(attack, net, x, y, "linf:8/255", steps=0)
    ours, _ = lab.call(attack, net, x, y, "linf:8/255", steps=20, step=0.25)
    theirs = naive(net, x, y, eps, eps / 4, 20, start, margin)
    assert torch.equal(net(ours).argmax(1), net(theirs).argmax(1))
    assert ((ours - theirs).abs() < 1e-6).float().mean() > 0.995


def test_fgsm_is_one_sign_step(lab, easy):
    """The image plus eps times the sign, clipped."""
    net, x, y = easy
    ours, _ = lab.call(fgsm, net, x, y, "linf:8/255")
    assert torch.allclose(ours, naive(net, x, y, 1.0, 8 / 255, 1, x, margin=False), atol=1e-7)


def test_twenty_steps_are_the_first_of_a_hundred(lab, easy):
    """With the step fixed, a shorter run is a prefix of a longer one: images alike at every step up to 20."""
    net, x, y = easy
    met = []

    class Watched(nn.Module):
        def forward(self, images):
            met.append(images.detach().clone())
            return net(images)

    for steps in (20, 100):
        lab.call(pgd, Watched(), x, y, "linf:8/255", tile=24, steps=steps, step=0.125)
    short, long = met[:20], met[20:]
    assert len(short) == 20
    assert len(long) == 100
    assert all(torch.equal(a, b) for a, b in zip(short, long[:20], strict=True))


def test_any_stops_at_the_first_misread_image_and_last_does_not(lab, easy):
    """ANY fells at least what LAST fells, and spends less; LAST spends the same on every image."""
    net, x, y = easy
    (last, spent), (first, saved) = (lab.call(pgd, net, x, y, "linf:8/255", steps=20, keep=k) for k in ("last", "any"))
    fell_last, fell_any = net(last).argmax(1) != y, net(first).argmax(1) != y
    assert fell_last.any()
    assert not (fell_last & ~fell_any).any()
    assert spent[0].tolist() == spent[1].tolist() == [20] * 24
    assert (saved[0][fell_any] < 20).any()
    assert saved[0][~fell_any].tolist() == [20] * int((~fell_any).sum())


def test_any_counts_the_start(lab):
    """An image that is misread at the start costs one pass, and comes back as that start."""
    x = torch.rand(3, 1, 4, 4)
    found, (forwards, backwards) = lab.call(
        pgd, lab.Constant(0), x, torch.ones(3, dtype=torch.long), "linf:0.1", keep="any", start="none"
    )
    assert torch.equal(found, x)
    assert forwards.tolist() == backwards.tolist() == [1, 1, 1]


@pytest.mark.parametrize("keep", ["last", "any"])
@pytest.mark.parametrize("restarts", [1, 3])
def test_the_passes_are_those_of_the_formula(lab, keep, restarts):
    """On a model that never falls; the judge adds one forward."""
    x, y = torch.zeros(5, 1, 4, 4, dtype=torch.uint8) + 99, torch.zeros(5)
    settings = {"steps": 4, "restarts": restarts, "keep": keep}
    verdict = lab.asked(pgd, lab.Constant(0), x, y, "linf:0.1", **settings)
    assert not verdict.fell.any()
    assert {(int(f) - 1, int(b)) for f, b in zip(verdict.forwards, verdict.backwards, strict=True)} == {
        pgd.cost(**pgd.recipe(**settings).settings)
    }


def test_restarts_are_a_union(lab, easy):
    """What one start fells stays as it is; the other images get another start, around x and not around the last."""
    net, x, y = easy
    once, _ = lab.call(pgd, net, x, y, "linf:4/255", steps=3)
    more, (forwards, _) = lab.call(pgd, net, x, y, "linf:4/255", steps=3, restarts=8)
    fell = net(once).argmax(1) != y
    assert torch.equal(more[fell], once[fell])
    assert (net(more).argmax(1) != y).sum() >= fell.sum()
    assert (more - x).abs().max() <= 4 / 255 + 1e-6
    assert forwards[fell].eq(4).all()
    assert not torch.equal(more[~fell], once[~fell])


def test_a_zero_gradient_moves_l2_and_leaves_linf_where_it_is(lab):
    """At the centre of a sphere the gradient vanishes: Linf's sign is 0, and L2 goes a random way out of it."""

    class Sphere(nn.Module):
        def forward(self, x):
            return torch.stack([torch.zeros(len(x)), (x - 0.5).square().flatten(1).sum(1) - 0.09], 1)

    x, y = torch.full((6, 1, 5, 5), 0.5), torch.zeros(6, dtype=torch.long)
    still, _ = lab.call(pgd, Sphere(), x, y, "linf:0.2", start="none")
    moved, _ = lab.call(pgd, Sphere(), x, y, "l2:0.31", start="none")
    assert torch.equal(still, x)
    assert (Sphere()(moved).argmax(1) == 1).all()
    assert len({tuple(m.flatten().tolist()) for m in moved}) == 6


def test_gradients_and_logits_that_are_not_numbers_do_no_harm(lab):
    """A gradient that is not a number counts as zero; a logit that is not one is a misreading, as the judge has it."""

    class Rooted(nn.Module):  # finite logits; the root's gradient at 0 is infinite, and 0 times it is not a number
        def forward(self, x):
            return torch.stack([1 + 0 * (x.flatten(1)[:, 0] * 0).sqrt(), 0 * x.flatten(1)[:, 0]], 1)

    class Broken(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2] * torch.nan

    x, y = torch.full((2, 1, 2, 2), 128, dtype=torch.uint8), [0, 0]
    for attack in (pgd, cw, fgsm):
        for threat in ("linf:0.1", "l2:0.1"):
            assert lab.asked(attack, Rooted(), x, y, threat).fell.tolist() == [False, False]
            assert lab.asked(attack, Broken(), x, y, threat).fell.tolist() == [True, True]


@pytest.mark.parametrize("method", [pgd, cw])
@pytest.mark.parametrize("norm", ["linf:0.02", "l2:0.2"])
@pytest.mark.parametrize("settings", [{}, {"keep": "any"}, {"restarts": 2}, {"start": "none", "eot": 2}], ids=str)
def test_shorter_climbs_come_with_longer_ones(lab, method, norm, settings):
    """Bit by bit the images of runs of their own, in any order of their numbers; with one restart at no cost."""
    net = lab.small_net()
    torch.manual_seed(1)
    x = torch.rand(12, 3, 8, 8)
    y = net(x).argmax(1)
    filled = method.recipe(**settings).settings
    victim = Victim(net, tile=16, access="gradients", images=12)
    steps = (9, 0, 4, 1)
    threat, draws = ThreatModel.parse(norm), Draws(0, torch.arange(12), method.name)
    several = method.together[1](victim, x, y, threat, draws, **filled | {"steps": steps})
    alone = [lab.call(method, net, x, y, norm, **filled | {"steps": s}) for s in steps]
    assert all(torch.equal(mine, own) for mine, (own, _) in zip(several, alone, strict=True))
    fell = [(net(images).argmax(1) != y).sum() for images in several]
    assert fell[0] > fell[1]
    if "restarts" not in settings:
        assert torch.equal(victim.passes()[1], alone[0][1][1])
