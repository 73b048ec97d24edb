"""RayS, HopSkipJump and the boundary attack: labels alone, and the nearest misread image."""

import math

import pytest
import torch
from torch import nn

from attacks.boundary import INWARDS, SIDEWAYS, _look, _scaled, _sidestep, boundary
from attacks.decisions import begin, bisect
from attacks.hopskipjump import _slope, hopskipjump
from attacks.rays import rays
from attacks.suites import BLACKBOX
from bench import Draws, ThreatModel
from bench.registry import plugins
from bench.victim import Victim

SHORT = {rays: {}, hopskipjump: {"tries": 30}, boundary: {"tries": 30}}
CASES = [(a, s, n) for a, s in SHORT.items() for n in a.norms]
NAMES = [f"{a.name}-{n}" for a, _, n in CASES]


def run(attack, module, x, y, norm, *, tile=16, seed=0, **settings):
    """The images, their distances (infinite where not misread) and the questions asked: all without bound."""
    threat = ThreatModel.of_cell(norm)
    victim = Victim(module, tile=tile, access="labels", images=len(x))
    found = attack(victim, x, y, threat, Draws(seed, torch.arange(len(x)), attack.name), **settings)
    size = threat.size(found.double() - x.double())
    return found, torch.where(module(found).argmax(1) != y, size, torch.inf), victim.passes()[0]


@pytest.fixture(scope="module")
def linear(lab):
    """A linear model of two classes on 27 values, images and labels, and their exact distances by norm."""
    torch.manual_seed(0)
    weight, bias = torch.randn(2, 27), torch.zeros(2)
    x = 0.25 + 0.5 * torch.rand(12, 3, 3, 3)
    net = lab.Linear(weight, bias)
    y = net(x).argmax(1)
    away = {norm: lab.distance(weight, bias, x, y, norm) for norm in ("linf", "l2")}
    keep = away["linf"] > 0.01  # where float32 still sees a share of it
    return net, x[keep], y[keep], {norm: a[keep] for norm, a in away.items()}


@pytest.mark.parametrize(
    ("attack", "norm", "queries", "within"),
    [(rays, "linf", 800, 1.05), (hopskipjump, "l2", 4000, 1.03), (hopskipjump, "linf", 4000, 1.05),
     (boundary, "l2", 3000, 1.2)],
)  # fmt: skip
def test_the_exact_distance_of_a_linear_model_is_approached(linear, attack, norm, queries, within):
    """From above, never from below, and nearer with more questions."""
    net, x, y, away = linear
    assert len(x) > 6
    ratios = []
    for budget in (queries // 8, queries):
        _, distance, spent = run(attack, net, x, y, norm, queries=budget)
        assert spent.max() <= budget
        ratios.append(distance / away[norm])
        assert ratios[-1].min() >= 1 - 1e-4
    assert ratios[1].max() < within, ratios[1]
    assert (ratios[1] - 1).mean() < (ratios[0] - 1).mean() / 2
    assert (ratios[1] <= ratios[0]).all()


@pytest.mark.parametrize(("attack", "settings", "norm"), CASES, ids=NAMES)
def test_no_budget_is_overshot_and_more_questions_find_nothing_farther(lab, attack, settings, norm):
    """Whatever the budget cuts short: each is the first part of the next, so distances nest."""
    net = lab.small_net(size=4)
    torch.manual_seed(1)
    x = torch.rand(10, 3, 4, 4)
    net[-1].bias -= net(x).mean(0)  # so that no class wins everywhere
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 5  # misread already: one question, and it stays as it is
    before = torch.full((10,), torch.inf, dtype=torch.double)
    for queries in (1, 2, 3, 12, 25, 113, 114, 300, 1000):
        found, distance, spent = run(attack, net, x, y, norm, queries=queries, **settings)
        assert spent.max() <= queries
        assert (distance <= before).all()
        assert spent[0] == 1
        assert torch.equal(found[0], x[0])
        assert torch.equal(found[distance.isinf()], x[distance.isinf()])
        if queries <= 12:  # too few for a round of HopSkipJump's, which is not begun then
            assert spent[1:].eq(queries).all()
        before = distance
    assert distance.isfinite().all()
    assert distance[1:].min() > 0


@pytest.mark.parametrize(("attack", "settings", "norm"), CASES, ids=NAMES)
@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 1, 1)])
@pytest.mark.parametrize("classes", [2, 200])
def test_a_model_that_never_falls_costs_what_the_formula_says(lab, attack, settings, norm, shape, classes):
    """RayS has its budget, or is through with all blocks; the others give up where no noise is misread."""
    x = torch.full((2, *shape), 99, dtype=torch.uint8)
    count = math.prod(shape)
    blocks = sum(math.ceil(count / math.ceil(count / 2**level)) for level in range(math.ceil(math.log2(count)) + 1))
    for queries in (1, 20, 40, 400):
        verdict = lab.asked(attack, lab.Constant(0, classes), x, [0, 0], norm, queries=queries, **settings)
        cost = attack.cost(**attack.recipe(queries=queries, **settings).settings)
        expected = min(cost[0], 1 + blocks) if attack is rays else cost[0]
        assert verdict.forwards.tolist() == [expected + 1] * 2
        assert verdict.distance.tolist() == [torch.inf] * 2
    assert {a.name: a.cost(**a.defaults)[0] for a in SHORT} == {"rays": 10_000, "hopskipjump": 1001, "boundary": 1001}


@pytest.mark.parametrize(("attack", "settings", "norm"), CASES, ids=NAMES)
def test_labels_are_all_that_is_seen(lab, attack, settings, norm):
    """Logits that are torn and squeezed but for their order: the very same images and questions."""
    net = lab.small_net()
    torch.manual_seed(3)
    x = torch.rand(6, 3, 8, 8)
    y = net(x).argmax(1)

    class Torn(nn.Module):
        def forward(self, images):
            z = net(images)
            best = nn.functional.one_hot(z.argmax(1), 5)
            return best * (1 + 1e4 * images.flatten(1)[:, :1]) - (1 - best) * z.abs()

    plain, torn = (run(attack, module, x, y, norm, queries=300, **settings) for module in (net, Torn()))
    assert torch.equal(plain[0], torn[0])
    assert torch.equal(plain[2], torn[2])
    assert not torch.equal(plain[0], x)


def slow_rays(net, image, label, queries):
    """RayS on one image, written as the paper has it, in float64; it stops in the middle of a bisection too."""
    left = [queries]
    shape, count = image.shape, image.numel()
    best = (math.inf, image)

    class OutOfQuestionsError(Exception):
        pass

    def misread(signs, radius):
        nonlocal best
        if not left[0]:
            raise OutOfQuestionsError
        left[0] -= 1
        new = (image.double() + radius * signs.view(shape)).clamp(0, 1).float()
        if net(new[None]).argmax() == label:
            return False
        best = min(best, ((new.double() - image.double()).abs().max().item(), new), key=lambda pair: pair[0])
        return True

    signs, radius, level = torch.ones(count).double(), 1.0, 0
    try:
        misread(signs, 0)
        while True:
            length = math.ceil(count / 2**level)
            for start in range(0, count, length):
                flipped = signs.clone()
                flipped[start : start + length] *= -1
                if misread(flipped, radius):
                    low, high = 0.0, radius
                    while high - low > 1e-3 / math.sqrt(count):
                        middle = (low + high) / 2
                        if misread(flipped, middle):
                            high = middle
                        else:
                            low = middle
                    if high < radius:
                        signs, radius = flipped, high
            level += 1
    except OutOfQuestionsError:
        return best[1]


def test_rays_is_the_search_of_the_paper(lab):
    """Image by image, question by question, in blocks that do not divide the values evenly."""
    net = lab.small_net(channels=1, size=5)
    torch.manual_seed(4)
    x = torch.rand(6, 1, 5, 5)
    y = net(x).argmax(1)
    for queries in (40, 150):
        ours, distance, spent = run(rays, net, x, y, "linf", queries=queries)
        theirs = torch.stack([slow_rays(net, x[i], y[i], queries) for i in range(6)])
        assert torch.equal(ours, theirs)
        assert spent.eq(queries).all()
        assert distance.isfinite().any()


def test_rays_ends_where_nothing_is_new(linear):
    """Once every single sign was flipped in vain: then a budget ten times as large asks and finds the same."""
    net, x, y, _ = linear
    first, _, spent = run(rays, net, x, y, "linf", queries=2000)
    second, _, again = run(rays, net, x, y, "linf", queries=20_000)
    done = spent < 2000
    assert done.sum() > 6
    assert torch.equal(first[done], second[done])
    assert torch.equal(spent[done], again[done])


class Halves(nn.Module):
    """Class 1 where the left half is brighter than the right by a fifth: uniform noise almost never is."""

    def forward(self, x):
        left, right = x.flatten(1, 2).chunk(2, 2)
        gap = left.flatten(1).mean(1) - right.flatten(1).mean(1)
        return torch.stack([0 * gap, gap - 0.2], 1)


def test_a_start_is_found_where_all_fine_noise_is_one_class():
    """Every second try is coarse."""
    fine = torch.rand(2000, 1, 16, 16)
    assert not Halves()(fine).argmax(1).any()
    x, y = torch.full((8, 1, 16, 16), 0.5), torch.zeros(8, dtype=torch.long)
    for attack in (hopskipjump, boundary):
        _, distance, _ = run(attack, Halves(), x, y, "l2", queries=300, tries=100)
        assert distance.isfinite().all()


def hunt_of(module, x, y):
    """A search with questions to spend."""
    victim = Victim(module, tile=16, access="labels", images=len(x))
    return begin(victim, x, y, Draws(0, torch.arange(len(x)), "test"), 10_000)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_halving_ends_within_the_gap_of_the_boundary(linear, norm):
    """On the line, or by clipping: misread, and an image 1e-5 of the way nearer is not."""
    net, x, y, _ = linear
    hunt, threat = hunt_of(net, x, y), ThreatModel.of_cell(norm)
    torch.manual_seed(0)
    far = torch.rand(2000, 3, 3, 3)
    far = torch.stack([far[net(far).argmax(1) != label][0] for label in y])
    near = bisect(hunt, threat, far, 1e-5, straight=norm == "l2")
    assert (net(near).argmax(1) != y).all()
    if norm == "l2":
        nearer = near - 2e-5 * (far - x)
    else:
        radius = (near - x).abs().flatten(1).amax(1) - 2e-5
        nearer = near.clamp(x - radius.view(-1, 1, 1, 1), x + radius.view(-1, 1, 1, 1))
    assert (net(nearer).argmax(1) == y).all()
    assert torch.equal(hunt.size, threat.size(near.double() - x.double()))
    assert (10_000 - hunt.left).tolist() == [17] * len(x)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_halving_ends_where_float32_sees_no_image_between(lab, norm):
    """Asked for a gap of zero, from an image three steps of float32 away: two questions at most, none repeated."""
    net = lab.Linear(torch.tensor([[0.0], [1e9]]), torch.tensor([0.0, -0.5e9 - 64]))
    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    far = x + 3 * 2.0**-24
    assert net(far).argmax(1) == 1
    hunt = hunt_of(net, x, y)
    near = bisect(hunt, ThreatModel.of_cell(norm), far, 0.0, straight=norm == "l2")
    assert hunt.left >= 10_000 - 2
    assert net(near).argmax(1) == 1
    assert near < far


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_slope_is_the_boundary_s_normal(linear, norm):
    """Of many probes at a point on a plane: nearly its normal, whose signs Linf takes; alike in any chunks."""
    net, x, y, _ = linear
    hunt, threat = hunt_of(net, x, y), ThreatModel.of_cell(norm)
    normal = (net.weight[1] - net.weight[0]).double()
    normal = (normal / normal.norm()) * torch.where(y == 0, 1.0, -1.0)[:, None]
    on_plane = (x.flatten(1) - ((x.flatten(1).double() @ normal[0]) * 1)[:, None] * normal[0]).view_as(x).float()
    inside = ((on_plane > 0.01) & (on_plane < 0.99)).flatten(1).all(1)
    assert inside.sum() >= 3
    size = torch.full((len(x),), 0.005, dtype=torch.double)
    slope = _slope(hunt, on_plane, threat, 1, 4000, size).flatten(1)[inside]
    if norm == "l2":
        assert ((slope * normal[inside]).sum(1) > 0.97).all()
        assert torch.allclose(slope.norm(dim=1), torch.ones(len(slope)).double())
    else:
        large = normal[inside].abs() > 0.1
        assert (slope == normal[inside].sign())[large].float().mean() > 0.97


def test_probes_in_chunks_are_the_same_probes(lab, monkeypatch):
    """One at a time or all at once."""
    net = lab.small_net()
    x = torch.rand(4, 3, 8, 8)
    y = net(x).argmax(1)
    together = run(hopskipjump, net, x, y, "l2", queries=150)
    monkeypatch.setattr("attacks.hopskipjump.VALUES", 1)
    alone = run(hopskipjump, net, x, y, "l2", queries=150)
    assert torch.equal(together[0], alone[0])
    assert torch.equal(together[2], alone[2])


def test_a_round_begins_only_where_its_probes_and_a_step_are_paid_for(linear):
    """100 probes and one question more; else what is left is not spent."""
    net, x, y, _ = linear
    x, y = x[:1], y[:1]
    started = int(run(hopskipjump, net, x, y, "l2", queries=90)[2])
    assert started < 90
    for more, spent in ((100, started), (101, started + 101)):
        assert run(hopskipjump, net, x, y, "l2", queries=started + more)[2].tolist() == [spent]


def test_a_sidestep_stays_on_the_sphere():
    """At the same distance, turned by the step's angle, in any direction."""
    torch.manual_seed(0)
    x = torch.full((5, 3, 4, 4), 0.5).double()
    away = 0.02 * torch.randn(5, 3, 4, 4).double()
    far = away.flatten(1).norm(dim=1)
    step = torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0]).double()
    moved = _sidestep(x, away, far, torch.randn(5, 3, 4, 4).double(), step) - x
    assert torch.allclose(moved.flatten(1).norm(dim=1), far)
    cosine = (moved * away).flatten(1).sum(1) / far**2
    assert torch.allclose(cosine.acos(), step.atan())


def test_the_steps_follow_the_shares_of_successes():
    """Lists of 100 looks: of 51 successes grow, of 19 shrink, of 20 to 50 slide; then they begin anew."""
    successes = torch.tensor([51, 50, 20, 19])
    window, looks, who = torch.zeros(4, 100, dtype=torch.bool), torch.zeros(4).long(), torch.ones(4, dtype=torch.bool)
    for turn in range(100):
        rises, falls = _look(window, looks, successes > turn, who, SIDEWAYS)
        assert turn == 99 or not (rises | falls).any()
    assert rises.tolist() == [True, False, False, False]
    assert falls.tolist() == [False, False, False, True]
    assert looks.tolist() == [0, 100, 100, 0]
    assert _scaled(torch.ones(4), rises, falls).tolist() == pytest.approx([1.5, 1, 1, 1 / 1.5])
    # The oldest look, a success, makes way for a failure: 19 of 100 are left of the third image's.
    rises, falls = _look(
        window, looks, torch.zeros(4, dtype=torch.bool), torch.tensor([False, False, True, False]), SIDEWAYS
    )
    assert falls.tolist() == [False, False, True, False]
    assert looks.tolist() == [0, 100, 0, 0]
    assert INWARDS == (30, 0.1, 0.25)


def test_the_black_box_suite_asks_for_no_gradient():
    """Each of its attacks sees scores or labels, and can search a Linf ball."""
    registry = plugins()
    names = registry.suite("blackbox").parts[0][0]
    assert names == BLACKBOX.parts[0][0]
    found = [registry.parse("attack", text).plugin for name in names[1:] for text in registry.column(name).attacks]
    assert [attack.name for attack in found] == ["square", "signhunter", "nes", "simba", "rays", "hopskipjump"]
    assert {attack.access for attack in found} == {"scores", "labels"}
    assert all("linf" in attack.norms for attack in found)
