from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from attacks.fab import _Settings, fab, fab_min, fab_t, nearest_misread, onto_plane
from bench import Draws, ThreatModel
from bench.victim import Victim


def planes(count, seed, *, size=20):
    """Planes and points in float64 that meet what can go wrong: zeros in the gradient, points at the box, too far."""
    g = np.random.default_rng(seed)
    points = np.clip(g.uniform(-0.3, 1.3, (count, size)), 0, 1)
    normals = g.normal(size=(count, size)) * (g.uniform(size=(count, size)) > 0.2)
    reach = np.where(normals > 0, (1 - points) * normals, -points * normals).sum(1)
    values = -reach * g.choice([0.01, 0.3, 0.8, 0.999, 1.5], count)
    flip = g.choice([-1, 1], count)
    return (torch.from_numpy(a) for a in (normals * flip[:, None], values * flip, points))


def moves(norm, normals, values, points):
    """onto_plane on flat points."""
    shape = (-1, 1, 4, points.shape[1] // 4)
    return onto_plane(norm, normals.view(shape), values, points.view(shape)).flatten(1)


def least(norm, normal, value, point):
    """The least size of a move onto the plane within the box, by linear programming or bisection; None if too far."""
    from scipy.optimize import linprog

    d = len(point)
    if norm == "l2":
        low, high = 0.0, 1e6
        way = -normal * np.sign(value)
        for _ in range(200):
            t = (low + high) / 2
            moved = np.clip(point + t * way, 0, 1) - point
            low, high = (t, high) if abs(normal @ moved) < abs(value) else (low, t)
        return np.linalg.norm(moved) if abs(normal @ moved) > abs(value) * (1 - 1e-6) else None
    one = np.eye(d)
    if norm == "linf":  # the move, and its largest value
        cost, sides = np.r_[np.zeros(d), 1], np.block([[one, -np.ones((d, 1))], [-one, -np.ones((d, 1))]])
        extra = [(0, 1)]
    else:  # the move, and the size of each of its values
        cost, sides, extra = np.r_[np.zeros(d), np.ones(d)], np.block([[one, -one], [-one, -one]]), [(0, 1)] * d
    box = [(-p, 1 - p) for p in point]
    plane = np.r_[normal, np.zeros(len(extra))][None]
    solved = linprog(cost, sides, np.zeros(2 * d), plane, [-value], [*box, *extra])
    return solved.fun if solved.status == 0 else None


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_move_onto_a_plane_is_the_least_one_in_the_box(norm):
    """Against a slow oracle in float64; where the plane is too far, the move goes to the corner nearest to it."""
    normals, values, points = planes(40, 1)
    found = moves(norm, normals, values, points)
    assert ((points + found) >= -1e-12).all()
    assert ((points + found) <= 1 + 1e-12).all()
    sizes, order = {"linf": lambda m: m.abs().amax(1), "l2": lambda m: m.norm(dim=1), "l1": lambda m: m.abs().sum(1)}, 0
    for i, (normal, value, point) in enumerate(zip(normals.numpy(), values.numpy(), points.numpy(), strict=True)):
        best = least(norm, normal, value, point)
        if best is None:
            way = -normal * np.sign(value)
            assert found[i].numpy() == pytest.approx(np.where(way > 0, 1 - point, np.where(way < 0, -point, 0)))
        else:
            order += 1
            assert normal @ found[i].numpy() == pytest.approx(-value, rel=1e-9)
            assert sizes[norm](found[i : i + 1]).item() == pytest.approx(best, rel=1e-6)
    assert 20 < order < 40


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("scale", [1.0, 2.0**-100, 2.0**60])
def test_float32_is_enough_and_the_size_of_the_gradient_does_not_matter(norm, scale):
    """Within rounding of float64, for gradients whose squares are no float32 numbers."""
    normals, values, points = planes(200, 2, size=784)
    exact = moves(norm, normals, values, points)
    found = moves(norm, (normals * scale).float(), (values * scale).float(), points.float())
    threat = ThreatModel(norm, Fraction(1))
    assert torch.allclose(threat.size(found.double()), threat.size(exact), rtol=2e-5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_no_gradient_no_move(norm):
    """A gradient of zero, and a point on its plane."""
    points = torch.rand(2, 1, 4, 4)
    normals = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    assert torch.equal(onto_plane(norm, normals, torch.tensor([-1.0, 0.0]), points), torch.zeros_like(points))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_move_does_not_depend_on_its_neighbours(norm):
    """Bit by bit: however many steps the others take."""
    normals, values, points = (a.float() for a in planes(64, 3, size=192))
    whole = moves(norm, normals, values, points)
    for i in range(0, 64, 7):
        rows = slice(i, i + 1)
        assert torch.equal(moves(norm, normals[rows], values[rows], points[rows]), whole[rows])


@pytest.mark.parametrize("targets", [0, 9])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_distances_on_linear_models_are_nearly_the_least(lab, norm, targets):
    """Never below the exact distance, box included, and above it by what the overshoot leaves: .6 %, and 1 % in L1."""
    torch.manual_seed(0)
    weight = torch.randn(10, 768) / 768**0.5
    bias = torch.randn(10) * 0.1
    net = lab.Linear(weight, bias)
    x = torch.rand(12, 3, 16, 16)
    y = net(x).argmax(1)
    victim = Victim(net, tile=12, access="gradients", images=12)
    threat, draws = ThreatModel.parse(f"{norm}:1"), Draws(0, torch.arange(12), "fab")
    found, away = nearest_misread(victim, x, y, threat, draws, _Settings(), targets=targets, within=0)
    exact = lab.distance(weight, bias, x, y, norm)
    assert torch.equal(away, threat.size(found.double() - x.double()))
    assert (net(found).argmax(1) != y).all()
    over = away / exact - 1
    assert over.min() > -1e-4
    assert over.max() < (0.01 if norm == "l1" else 0.006)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("restarts", [1, 2])
def test_the_passes_are_those_of_the_formula(lab, norm, restarts):
    """On a model that never falls and has no gradient."""
    x, y = torch.zeros(5, 1, 4, 4, dtype=torch.uint8) + 99, torch.zeros(5)
    for method, more in ((fab, {}), (fab_t, {"targets": 9}), (fab_t, {"targets": 2})):
        settings = method.recipe(steps=4, restarts=restarts, **more).settings
        verdict = lab.asked(method, lab.Constant(0, 10), x, y, f"{norm}:0.1", **settings)
        assert not verdict.fell.any()
        assert {(int(f) - 1, int(b)) for f, b in zip(verdict.forwards, verdict.backwards, strict=True)} == {
            method.cost(**settings)
        }
    assert fab_t.cost(**fab_t.recipe().settings) == (1801, 900)


@pytest.mark.parametrize("classes", [2, 3, 10, 200])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_any_number_of_classes_has_boundaries(lab, classes, norm):
    """Found images lie in the ball and are misread; the others come back as they were."""
    net = lab.small_net(classes=classes)
    torch.manual_seed(0)
    x = torch.rand(70, 3, 8, 8)  # more than the gradients of which are held together
    net[-1].bias -= net(x).mean(0)
    y = net(x).argmax(1)
    eps = {"linf": 0.03, "l2": 0.3, "l1": 4}[norm]
    for method, settings in ((fab, {}), (fab_t, {"targets": 2})):
        found, _ = lab.call(method, net, x, y, f"{norm}:{eps}", steps=5, **settings)
        fell = net(found).argmax(1) != y
        assert fell.float().mean() > 0.2, method.name
        assert torch.equal(found[~fell], x[~fell])
        threat = ThreatModel.parse(f"{norm}:{eps}")
        assert (threat.size((found - x).double()) <= float(threat.eps) * (1 + 1e-6)).all()


def test_an_image_is_done_when_it_is_found_within_eps(lab):
    """A larger ball costs no more passes, image by image, and one that ends at once costs a single step."""
    net = lab.small_net()
    torch.manual_seed(1)
    x = torch.rand(20, 3, 8, 8)
    net[-1].bias -= net(x).mean(0)
    y = net(x).argmax(1)
    spent = [lab.call(fab_t, net, x, y, f"linf:{eps}", steps=20)[1][0] for eps in (1e-4, 0.01, 0.03, 0.9)]
    assert all((more >= less).all() for more, less in pairwise(spent))
    assert spent[-1].min() == 3
    assert spent[0].max() == 1 + 4 * 2 * 20


def test_other_restarts_start_elsewhere_and_cost_only_those_that_stand(lab):
    """The first walk begins at the image and draws nothing; the second at half of eps."""
    net, seen = lab.small_net(), []

    class Watched(torch.nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return net(x)

    torch.manual_seed(0)
    x = torch.full((1, 3, 8, 8), 0.5)
    y = net(x).argmax(1)
    lab.call(fab_t, Watched(), x, y, "linf:0.001", tile=1, steps=1, restarts=2, targets=1)
    assert len(seen) == 5
    assert torch.equal(seen[1], x)
    assert (seen[3] - x).abs().max().item() == pytest.approx(0.0005, rel=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("targets", [0, 2])
def test_the_reference_finds_the_same_distances(lab, norm, targets):
    """pyautoattack's FAB in a ball that holds everything; its later targets skip what an earlier one felled."""
    from pyautoattack.fab_pt import FABAttack_PT

    net = lab.small_net(size=6)
    torch.manual_seed(0)
    x = torch.rand(40, 3, 6, 6)
    net[-1].bias -= net(x).mean(0)
    y = net(x).argmax(1)
    _, ours = lab.nearest(fab_min, net, x, y, norm, steps=30, targets=targets)
    settings = {"targeted": targets > 0, "n_target_classes": 2, "n_iter": 30, "device": "cpu"}
    found = FABAttack_PT(net, norm=norm.capitalize(), eps=1e3, **settings).perturb(x, y)
    theirs = ThreatModel.of_cell(norm).size(found.double() - x.double())
    assert (theirs > 0).all()
    assert (ours <= theirs * 1.001).all()
    assert (ours >= theirs * 0.999).float().mean() >= (0.85 if targets else 1)
