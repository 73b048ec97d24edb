import logging
import sys

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack

from attacks.reference import reference_apgd_ce, reference_apgd_t, reference_fab_t, reference_square
from bench import AttackError

EPS = {"linf": 0.01, "l2": 0.12, "l1": 1.5}
SETTINGS = {
    reference_apgd_ce: {"steps": 7, "restarts": 2},
    reference_apgd_t: {"steps": 6, "targets": 3},
    reference_fab_t: {"steps": 5, "targets": 2},
    reference_square: {"queries": 40},
}
CASES = [(method, norm) for method in SETTINGS for norm in EPS]
NAMES = [f"{method.name}-{norm}" for method, norm in CASES]


@pytest.fixture(scope="module")
def scene(lab):
    """A net that tells five classes apart, and images that it reads right."""
    net = lab.small_net(seed=1)
    torch.manual_seed(2)
    x = torch.rand(30, 3, 8, 8)
    net[-1].bias -= net(x).mean(0)
    return net, x, net(x).argmax(1)


def direct(method, net, norm, seed):
    """The same attack of pyautoattack, made by hand."""
    common = {"norm": norm.capitalize(), "eps": EPS[norm], "seed": seed, "device": "cpu"}
    balls = {"use_largereps": norm == "l1", "logger": logging.getLogger("reference")}
    if method is reference_apgd_ce:
        return APGDAttack(net, n_iter=7, n_restarts=2, loss="ce", **balls, **common)
    if method is reference_apgd_t:
        return APGDAttack_targeted(net, n_iter=6, n_target_classes=3, **balls, **common)
    if method is reference_fab_t:
        return FABAttack_PT(net, n_iter=5, targeted=True, n_target_classes=2, **common)
    return SquareAttack(net, p_init=0.8, n_queries=40, resc_schedule=False, **common)


@pytest.mark.parametrize(("method", "norm"), CASES, ids=NAMES)
def test_the_same_images_fall_as_by_a_direct_call(lab, scene, method, norm):
    """In one batch whose first image is the data set's first, at the same seed; what is returned is in the ball."""
    net, x, y = scene
    for seed in (0, 3):
        found, _ = lab.call(method, net, x, y, f"{norm}:{EPS[norm]}", seed=seed, tile=30, **SETTINGS[method])
        expected = direct(method, net, norm, seed).perturb(x, y)
        assert torch.allclose(found, expected, atol=1e-5)
        fell = net(found).argmax(1) != y
        assert torch.equal(fell, net(expected).argmax(1) != y)
        assert 0 < fell.sum() < 30


@pytest.mark.parametrize(("method", "norm"), CASES, ids=NAMES)
def test_the_judge_takes_its_images_and_counts_its_passes(lab, method, norm):
    """On a model that never falls, by the formula; in L1 Auto-PGD asks two more times a start."""
    x = (torch.rand(3, 3, 8, 8) * 255).byte()
    verdict = lab.asked(method, lab.Constant(0, 5), x, torch.zeros(3), f"{norm}:{EPS[norm]}", **SETTINGS[method])
    assert not verdict.fell.any()
    starts = {reference_apgd_ce: 2, reference_apgd_t: 3}.get(method, 0) * 2 * (norm == "l1")
    forwards, backwards = method.cost(**SETTINGS[method])
    assert verdict.forwards.tolist() == [forwards + starts + 1] * 3
    assert verdict.backwards.tolist() == [backwards + starts] * 3


@pytest.mark.parametrize("method", [reference_apgd_ce, reference_square])
def test_the_seed_counts_and_the_world_around_does_not(lab, scene, method):
    """Another seed gives other images, and so does another first image; torch's generator is neither read nor moved."""
    net, x, y = scene

    def run(seed, ids):
        return lab.call(method, net, x, y, "linf:0.01", seed=seed, ids=ids, **SETTINGS[method])[0]

    places, found = torch.arange(30), []
    for world in (1, 2):
        torch.manual_seed(world)
        before = torch.get_rng_state()
        found.append(run(0, places))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*found)
    fell = net(found[0]).argmax(1) != y
    assert fell.any()
    assert not torch.equal(run(1, places)[fell], found[0][fell])
    assert torch.equal(run(0, places + 5), run(5, places))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("method", "norm"), CASES, ids=NAMES)
def test_few_classes_and_one_image(lab, method, norm, classes):
    """Two or three classes, gray, one image: the judge finds nothing to object to, or the attack says why not."""
    net = lab.small_net(channels=1, classes=classes)
    x = torch.full((1, 1, 8, 8), 60, dtype=torch.uint8)
    y = net(x.float() / 255).argmax(1)
    if method is reference_apgd_t:
        with pytest.raises(AttackError, match=rf"image 0: the targeted DLR .* there are {classes} classes"):
            lab.asked(method, net, x, y, f"{norm}:{EPS[norm]}", **SETTINGS[method])
        return
    verdict = lab.asked(method, net, x, y, f"{norm}:{10 * EPS[norm]}", **SETTINGS[method])
    assert verdict.margin.isfinite().all()


def test_an_image_may_be_a_pixel_in_linf_and_is_too_small_for_bumps(lab):
    """The error of L2 and L1 says why."""
    x = torch.full((2, 1, 1, 1), 60, dtype=torch.uint8)
    assert not lab.asked(reference_square, lab.Constant(0), x, [0, 0], "linf:0.1", queries=5).fell.any()
    with pytest.raises(AttackError, match=r"begins with 5 by 5 bumps in l2"):
        lab.asked(reference_square, lab.Constant(0), x, [0, 0], "l2:0.1", queries=5)


def test_margins_of_exactly_zero_are_asked_no_more(lab):
    """Every query ties: the reference then asks about no image at all."""

    class Tied(torch.nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 3)

    x = torch.full((2, 1, 8, 8), 60, dtype=torch.uint8)
    assert not lab.asked(reference_square, Tied(), x, [0, 0], "linf:0.1", queries=5).fell.any()


def test_a_ball_of_size_zero_holds_the_image_alone(lab, scene):
    """Nothing is asked."""
    net, x, y = scene
    for method, settings in SETTINGS.items():
        found, (forwards, _) = lab.call(method, net, x, y, "l2:0", **settings)
        assert torch.equal(found, x)
        assert forwards.sum() == 0


def test_without_the_package_the_error_says_what_to_install(lab, scene, monkeypatch):
    """And nothing is recorded."""
    monkeypatch.setitem(sys.modules, "pyautoattack", None)  # as good as absent
    with pytest.raises(AttackError, match=r"run pyautoattack, which is missing: pip install pyautoattack"):
        lab.asked(reference_square, lab.Constant(0), torch.zeros(1, 1, 8, 8, dtype=torch.uint8), [0], "linf:0.1")
