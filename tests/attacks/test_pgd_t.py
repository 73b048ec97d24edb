import pytest
import torch

from attacks.pgd_t import pgd_t


@pytest.fixture(scope="module")
def easy(lab):
    """A net, 24 images and the classes it gives them."""
    net = lab.small_net()
    torch.manual_seed(1)
    x = torch.rand(24, 3, 8, 8)
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("keep", ["last", "any"])
@pytest.mark.parametrize(("classes", "targets"), [(10, 9), (200, 9), (2, 1), (3, 2)])
def test_the_passes_are_those_of_the_formula(lab, keep, classes, targets):
    """On a model that never falls; with few classes there are few targets."""
    x, y = torch.zeros(3, 1, 4, 4, dtype=torch.uint8) + 99, torch.zeros(3)
    verdict = lab.asked(pgd_t, lab.Constant(0, classes), x, y, "linf:0.1", steps=4, keep=keep)
    cost = pgd_t.cost(**pgd_t.recipe(steps=4, targets=targets, keep=keep).settings)
    assert {(int(f) - 1, int(b)) for f, b in zip(verdict.forwards, verdict.backwards, strict=True)} == {cost}
    assert pgd_t.cost(**pgd_t.defaults) == (1 + 9 * 40 + 8, 360)


def naive(net, x, y, start, eps, steps, count):
    """One image at a time: climbs of z_t - z_y, until the last image of one is misread."""
    found = []
    for i in range(len(x)):
        image, label = x[i : i + 1], int(y[i])
        logits = net(image)[0]
        ranked = [t for t in sorted(range(len(logits)), key=lambda j: -logits[j]) if t != label][:count]
        for k, target in enumerate(ranked):
            now = start[k][i : i + 1]
            for _ in range(steps):
                now = now.detach().requires_grad_()
                z = net(now)[0]
                (grad,) = torch.autograd.grad(z[target] - z[label], now)
                now = torch.min(torch.max(now.detach() + eps / 4 * grad.sign(), image - eps), image + eps).clamp(0, 1)
            if net(now).argmax() != label:
                break
        found.append(now)
    return torch.cat(found)


def test_it_is_the_naive_loop_over_targets(lab, easy):
    """From the same starts: the same images, bar a sign where a gradient rounds to nothing."""
    net, x, y = easy

    class Met(torch.nn.Module):  # every question of a model that never falls: start k is the first after the k-th climb
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, images):
            self.seen.append(images.detach().clone())
            return lab.Constant(0, 5)(images)

    spy, eps = Met(), 0.03
    lab.call(pgd_t, spy, x, torch.zeros_like(y), f"linf:{eps}", tile=24, steps=1, targets=3)
    start = spy.seen[1::2]
    assert len(start) == 3
    assert not torch.equal(start[0], start[1])
    ours, _ = lab.call(pgd_t, net, x, y, f"linf:{eps}", steps=8, targets=3)
    theirs = naive(net, x, y, start, eps, 8, 3)
    fell = net(ours).argmax(1) != y
    assert 0 < fell.sum() < 24
    assert torch.equal(fell, net(theirs).argmax(1) != y)
    assert ((ours - theirs).abs() < 1e-6).float().mean() > 0.99


def test_both_losses_are_one_on_two_classes(lab):
    """The target's log probability then rises with the margin: the same signs, the same images."""
    net = lab.small_net(classes=2)
    torch.manual_seed(0)
    x = torch.rand(8, 3, 8, 8)
    y = net(x).argmax(1)
    margin, entropy = (
        lab.call(pgd_t, net, x, y, "linf:0.02", steps=5, loss=loss)[0] for loss in ("margin", "cross-entropy")
    )
    assert torch.allclose(margin, entropy, atol=1e-7)


def test_more_targets_only_add_and_any_adds_to_last(lab, easy):
    """The union over targets, and over iterates; in L2 too."""
    net, x, y = easy
    for threat in ("linf:0.015", "l2:0.12"):
        fell = {
            (targets, keep): net(lab.call(pgd_t, net, x, y, threat, steps=6, targets=targets, keep=keep)[0]).argmax(1)
            != y
            for targets in (1, 4)
            for keep in ("last", "any")
        }
        assert not (fell[1, "last"] & ~fell[4, "last"]).any()
        assert not (fell[4, "last"] & ~fell[4, "any"]).any()
        assert fell[1, "last"].any()
        assert fell[4, "any"].sum() < 24


def test_a_class_that_is_not_the_likeliest_is_reached(lab):
    """Three targets in turn: the first two stay out of reach and are paid for, the third is reached."""

    class Third(torch.nn.Module):
        def forward(self, x):
            rise = x.flatten(1).mean(1)
            return torch.stack([0 * rise + 3, 0 * rise + 2.9, 0 * rise + 2.8, 10 * rise - 3, 0 * rise - 9], 1)

    x, y = torch.full((2, 1, 4, 4), 0.55), torch.zeros(2, dtype=torch.long)
    for targets, expected in ((2, [False, False]), (3, [True, True])):
        found, (forwards, _) = lab.call(
            pgd_t, Third(), x, y, "linf:0.1", steps=4, step=2.0, targets=targets, keep="any", start="none"
        )
        assert (Third()(found).argmax(1) == 3).tolist() == expected
    assert forwards.tolist() == [1 + 2 * (4 + 1) + 2] * 2
