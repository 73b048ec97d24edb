"""What every white-box minimum-norm attack promises."""

import pytest
import torch
from torch import nn

from attacks.cw_l2 import cw_l2
from attacks.ddn import ddn
from attacks.deepfool import deepfool
from attacks.fab import fab_min
from attacks.fmn import fmn

RUNS = [
    (fmn, {"steps": 50}),
    (deepfool, {"steps": 20}),
    (ddn, {"steps": 50}),
    (ddn, {"steps": 50, "levels": 256}),
    (cw_l2, {"rounds": 6, "steps": 60, "weight": 0.01}),
    (fab_min, {"steps": 15}),
    (fab_min, {"steps": 15, "targets": 2}),
]
CASES = [(a, s, n) for a, s in RUNS for n in a.norms]
NAMES = [f"{a.name}-{n}" for a, _, n in CASES]
cases = pytest.mark.parametrize(("method", "settings", "norm"), CASES, ids=NAMES)


def is_sound(found, away, x, exact):
    """Images in the box, none nearer than can be, and those where nothing was found as they were."""
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert (away >= exact * (1 - 1e-4)).all()
    assert torch.equal(found[away.isinf()], x[away.isinf()])


@cases
def test_no_image_is_nearer_than_can_be_on_linear_models(lab, method, settings, norm):
    """Two, three and ten classes, many values at the edge of the box, and distances from 0 to more than there is."""
    seen = 0
    for classes in (2, 3, 10):
        torch.manual_seed(classes)
        net = lab.Linear(torch.randn(classes, 192) / 14, torch.randn(classes))
        x = (torch.randn(16, 3, 8, 8) * 0.6 + 0.5).clamp(0, 1)
        y = net(x).argmax(1)
        exact = lab.distance(net.weight, net.bias, x, y, norm)
        found, away = lab.nearest(method, net, x, y, norm, **settings)
        is_sound(found, away, x, exact)
        seen += away.isfinite().sum()
    assert seen >= 24


@cases
def test_no_image_is_nearer_than_can_be_on_spheres(lab, method, settings, norm):
    """Two classes with a curved boundary; at the centre there is no gradient."""
    torch.manual_seed(0)
    net = lab.Sphere(0.4 + 0.2 * torch.rand(3, 8, 8), 1.2 if norm == "l0" else 0.3)
    x = net.centre + 0.01 * torch.randn(12, 3, 8, 8)
    x[0] = net.centre
    y = torch.zeros(12, dtype=torch.long)
    found, away = lab.nearest(method, net, x, y, norm, **settings)
    is_sound(found, away, x, net.distance(x, norm))
    assert away[1:].isfinite().all()


# Distance over the exact one, less 1: of FMN's default in each norm, and of the others.
CURVED = {
    (fmn, "linf"): 1e-4, (fmn, "l2"): 2e-4, (fmn, "l1"): 0.01, (fmn, "l0"): 0.51,
    (fab_min, "linf"): 0.02, (fab_min, "l2"): 0.02, (fab_min, "l1"): 0.05,
    (ddn, "l2"): 0.01, (cw_l2, "l2"): 0.03, (deepfool, "l2"): 0.8, (deepfool, "linf"): 1.2,
}  # fmt: skip


@pytest.mark.parametrize(("method", "norm"), CURVED, ids=[f"{a.name}-{n}" for a, n in CURVED])
def test_the_sphere_is_found(lab, method, norm):
    """Within what is known of each: DeepFool's steps along the gradient overshoot where the boundary bends away."""
    torch.manual_seed(0)
    net = lab.Sphere(0.4 + 0.2 * torch.rand(3, 8, 8), 1.2 if norm == "l0" else 0.3)
    x = net.centre + 0.01 * torch.randn(8, 3, 8, 8)
    settings = {"steps": 200, "rounds": 6, "weight": 0.1} if method is cw_l2 else {}
    _, away = lab.nearest(method, net, x, torch.zeros(8, dtype=torch.long), norm, **settings)
    over = away / net.distance(x, norm) - 1
    assert over.max() < CURVED[method, norm]


@cases
def test_found_images_are_misread_and_others_come_back(lab, method, settings, norm):
    """On a net: every result is misread or the image itself; the images that begin dark are guarded from falling."""
    net = lab.small_net()

    class Guarded(nn.Module):
        def forward(self, x):
            dark = (x[:, :, 0, 0].mean(1, keepdim=True) < 0.5).float()
            return net(x) * (1 - dark) + dark * torch.eye(5)[0]

    torch.manual_seed(3)
    x = torch.rand(24, 3, 8, 8)
    x[:8, :, 0, 0], x[8:, :, 0, 0] = 0.1, 0.9
    found, away = lab.nearest(method, Guarded(), x, Guarded()(x).argmax(1), norm, **settings)
    is_sound(found, away, x, torch.zeros(24))
    assert away[:8].isinf().any()
    assert away[8:].isfinite().sum() >= 12
    assert (away > 0).all()


@cases
def test_an_image_that_is_misread_is_its_own_nearest(lab, method, settings, norm):
    """Bit by bit, for one forward; the images beside it are searched as if alone."""
    net = lab.small_net()
    torch.manual_seed(3)
    x = torch.rand(9, 3, 8, 8)
    y = net(x).argmax(1)
    y[::2] = (y[::2] + 1) % 5
    found, (forwards, _) = lab.call(method, net, x, y, norm, **settings)
    assert torch.equal(found[::2], x[::2])
    assert forwards[::2].tolist() == [1] * 5
    assert torch.equal(found[1::2] == x[1::2], lab.call(method, net, x[1::2], y[1::2], norm, **settings)[0] == x[1::2])
    assert forwards[1::2].min() > 1


@cases
def test_the_passes_are_those_of_the_formula(lab, method, settings, norm):
    """On a model of ten classes that never falls and has no gradient; cw-l2 would abort."""
    x, y = torch.full((3, 1, 4, 4), 99, dtype=torch.uint8), torch.zeros(3)
    more = {"abort": False} if method is cw_l2 else {}
    verdict = lab.asked(method, lab.Constant(0, classes=10), x, y, f"{norm}:1", **settings, **more)
    cost = method.cost(**method.recipe(**settings, **more).settings)
    assert {(int(f) - 1, int(b)) for f, b in zip(verdict.forwards, verdict.backwards, strict=True)} == {cost}
    assert verdict.distance.isinf().all()


def test_the_costs_at_the_defaults():
    """FMN, DDN: a pass a step.  DeepFool, FAB: two looks a step and a gradient a class.  CW: nine rounds of 10,000."""
    costs = {a.name: a.cost(**a.defaults) for a in (fmn, deepfool, ddn, cw_l2, fab_min)}
    assert costs == {
        "fmn": (100, 100), "deepfool": (101, 500), "ddn": (100, 100), "cw-l2": (90_001, 90_000), "fab-min": (201, 1000),
    }  # fmt: skip
    assert fab_min.cost(**fab_min.defaults | {"targets": 9}) == (1801, 900)
    assert deepfool.cost(**deepfool.defaults | {"classes": 3}) == (101, 150)


@pytest.mark.parametrize(
    ("method", "norm", "target", "settings", "median", "most"),
    [
        (fab_min, "linf", 8 / 255, {}, 0.0053, 0.0059),
        (fab_min, "l2", 0.5, {}, 0.0053, 0.0059),
        (fab_min, "linf", 8 / 255, {"targets": 9}, 0.0053, 0.0059),
        (deepfool, "linf", 8 / 255, {}, 0.024, 0.024),
        (deepfool, "l2", 0.5, {}, 0.021, 0.021),
        (ddn, "l2", 0.5, {}, 0.3, 0.35),
        (cw_l2, "l2", 0.5, {"rounds": 6, "steps": 300}, 0.03, 0.05),
    ],
)
def test_distances_on_linear_models_are_as_known(lab, method, norm, target, settings, median, most):
    """Ten classes: FAB leaves its overshoot, DeepFool 2 % and 1e-4, and DDN follows the cross-entropy."""
    net, x, y = lab.ten_classes(norm, target, images=10)
    over = lab.nearest(method, net, x, y, norm, **settings)[1] / target - 1
    assert over.min() > -1e-4
    assert over.median() < median
    assert over.max() < most
