import pytest
import torch
from torch import nn

from attacks.apgd import apgd, apgd_ce, apgd_dlr, apgd_t, checks, start_at_edge
from attacks.losses import cross_entropy, dlr, margin
from bench import AttackError, Draws, ThreatModel
from bench.victim import Victim


@pytest.mark.parametrize(
    ("steps", "after"),
    [
        (100, [22, 41, 57, 70, 80, 87, 93, 99]),
        (20, [4, 7, *range(9, 21)]),
        (10, list(range(2, 11))),
        (1, [1]),
    ],
)
def test_the_step_is_checked_where_the_authors_check_it(steps, after):
    """The windows of 100, 20 and 10 steps, as published."""
    assert [at for at, _ in checks(steps)] == after
    assert sum(window for _, window in checks(steps)) == after[-1]


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.7"])
def test_the_start_lies_on_the_edge(threat):
    """In the middle of the box nothing is clipped, and the distance is eps."""
    threat = ThreatModel.parse(threat)
    x = torch.full((9, 3, 6, 6), 0.5)
    start = start_at_edge(x, threat, Draws(0, torch.arange(9)))
    assert threat.size(start - x).tolist() == pytest.approx([float(threat.eps)] * 9, rel=1e-5)


def reference(net, x, y, start, eps, steps):
    """Auto-PGD in Linf on one image, with a list of all losses: nothing kept that can be looked up."""

    def ask(x):
        x = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(net(x), y)
        return loss.item(), torch.autograd.grad(loss, x)[0]

    def project(z):
        return torch.min(torch.max(z, x - eps), x + eps).clamp(0, 1)

    now, before, size = start, start, 2 * eps
    value, grad = ask(now)
    losses, best = [value], (value, now, grad)
    halved, best_then = True, value
    windows = dict(checks(steps))
    for i in range(steps):
        a = 1 if i == 0 else 0.75
        ahead = project(now + size * grad.sign())
        now, before = project(now + a * (ahead - now) + (1 - a) * (now - before)), now
        value, grad = ask(now)
        losses.append(value)
        if value > best[0]:
            best = (value, now, grad)
        if i + 1 in windows:
            k = windows[i + 1]
            rises = sum(losses[t] > losses[t - 1] for t in range(i + 2 - k, i + 2))
            halved, best_then = rises <= 0.75 * k or (not halved and best_then >= best[0]), best[0]
            if halved:
                size, now, grad = size / 2, best[1], best[2]
    return losses


@pytest.mark.parametrize("image", range(4))
def test_the_losses_are_those_of_a_plain_reading_of_the_algorithm(lab, image):
    """One image at a time from the same start, in float64; the two programs share no line but the checkpoints."""
    net = lab.small_net(seed=3).double()
    torch.manual_seed(5)
    x = torch.rand(4, 3, 8, 8).double()[image : image + 1]
    y = net(x).argmax(1)
    ahead = 3 * nn.functional.one_hot(y, 5)  # the true class wins by so much that the image stands to the end
    seen = []

    class Settled(nn.Module):
        def forward(self, x):
            return net(x) + ahead

    def watched(logits, y):
        value = cross_entropy(logits.double(), y)
        seen.append(value.item())
        return value

    victim = Victim(Settled(), tile=1, access="gradients", images=1, dtype=torch.float64)
    threat, draws = ThreatModel.parse("linf:0.1"), Draws(0, torch.tensor([image]), "apgd-ce")
    apgd(victim, x, y, threat, draws, watched, steps=30)
    start = start_at_edge(x, threat, draws.at("start"))
    expected = reference(lambda z: (net(z) + ahead).float().double(), x, y, start, 0.1, 30)
    assert seen == pytest.approx(expected[:30], rel=1e-9)
    assert len(set(seen)) > 20


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5", "l1:2"])
def test_the_passes_are_those_of_the_formula(lab, restarts, threat):
    """On a model that never falls and has no gradient."""
    x, y = torch.zeros(5, 1, 4, 4, dtype=torch.uint8) + 99, torch.zeros(5)
    settings = {"steps": 7, "restarts": restarts}
    verdict = lab.asked(apgd_ce, lab.Constant(0), x, y, threat, **settings)
    assert not verdict.fell.any()
    assert {(int(f) - 1, int(b)) for f, b in zip(verdict.forwards, verdict.backwards, strict=True)} == {
        apgd_ce.cost(**settings)
    }


def test_a_fallen_image_costs_nothing_more(lab):
    """ANY, the start included: one forward and one backward where the start is misread, less than all elsewhere."""
    x = torch.rand(6, 3, 8, 8)
    found, spent = lab.call(apgd_ce, lab.Constant(0), x, torch.ones(6, dtype=torch.long), "linf:0.1")
    assert [s.tolist() for s in spent] == [[1] * 6] * 2
    net = lab.small_net()
    y = net(x).argmax(1)
    found, (forwards, backwards) = lab.call(apgd_ce, net, x, y, "linf:0.05")
    fell = net(found).argmax(1) != y
    assert fell.any()
    assert (forwards[fell] <= 100).all()
    assert forwards[fell].float().mean() < 50
    assert torch.equal(forwards, backwards)


@pytest.mark.parametrize("loss", [margin, dlr])
def test_other_losses_and_more_labels_climb_the_same_way(lab, loss):
    """Labels of shape (N, 2) with the true class first: a loss that reads only it gives the very same images."""
    net = lab.small_net()
    x = torch.rand(10, 3, 8, 8)
    y = net(x).argmax(1)
    threat, draws = ThreatModel.parse("linf:0.03"), Draws(0, torch.arange(10), "apgd")

    def run(labels, loss):
        victim = Victim(net, tile=16, access="gradients", images=10)
        return apgd(victim, x, labels, threat, draws, loss, steps=10, restarts=2)

    pairs = torch.stack([y, (y + 1) % 5], 1)
    assert torch.equal(run(y, loss), run(pairs, lambda z, pair: loss(z, pair[:, 0])))


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5", "l1:2"])
@pytest.mark.parametrize(("classes", "targets"), [(10, 9), (10, 3), (3, 2), (2, 1)])
def test_targets_cost_what_the_formula_says(lab, threat, classes, targets):
    """One forward ranks them; with K classes there are at most K - 1, and asking for more costs no more."""
    x, y = torch.zeros(5, 1, 4, 4, dtype=torch.uint8) + 99, torch.zeros(5)
    for asked_for in {targets, 9} if targets == classes - 1 else {targets}:
        verdict = lab.asked(apgd_t, lab.Constant(0, classes), x, y, threat, steps=7, targets=asked_for)
        assert not verdict.fell.any()
        assert {(int(f) - 1, int(b)) for f, b in zip(verdict.forwards, verdict.backwards, strict=True)} == {
            apgd_t.cost(steps=7, targets=targets)
        }
    assert apgd_t.cost(**apgd_t.recipe().settings) == (909, 900)


def test_a_fallen_image_pays_for_no_other_target(lab):
    """Each image spends 1 + the passes up to its first misread iterate; every search meets its own random start."""
    net, seen = lab.small_net(classes=6, seed=1), []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return net(x)

    torch.manual_seed(0)
    x = torch.rand(1, 3, 8, 8)
    y = net(x).argmax(1)
    found, (forwards, _) = lab.call(apgd_t, Watched(), x, y, "linf:0.001", tile=1, steps=4)
    assert forwards.tolist() == [1 + 5 * 4 + 4]  # five targets; the last iterate of all is left to the judge
    assert net(found).argmax(1) == y
    starts = seen[1::5]
    assert len({tuple(s.flatten().tolist()) for s in starts}) == 5
    found, (forwards, _) = lab.call(apgd_t, net, x, y, "linf:0.2", tile=1)
    assert net(found).argmax(1) != y
    assert forwards.item() < 102


@pytest.mark.parametrize("classes", [2, 3, 10, 200])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 1), ("l1", 8)])
def test_any_number_of_classes_has_targets(lab, classes, norm, eps):
    """Most images fall in a ball that is large enough."""
    net = lab.small_net(classes=classes)
    torch.manual_seed(0)
    x = torch.rand(8, 3, 8, 8)
    net[-1].bias -= net(x).mean(0)
    y = net(x).argmax(1)
    found, _ = lab.call(apgd_t, net, x, y, f"{norm}:{eps}", steps=10, targets=2)
    assert (net(found).argmax(1) != y).float().mean() >= 0.75


def test_two_classes_are_too_few_for_the_ratio(lab):
    """The error names the attack and the image; nothing is recorded."""
    x = torch.full((3, 1, 8, 8), 60, dtype=torch.uint8)
    with pytest.raises(AttackError, match=r"apgd-dlr failed on image 0: the DLR .* there are 2 classes"):
        lab.asked(apgd_dlr, lab.Constant(0, 2), x, [0, 0, 0], "linf:0.1")
