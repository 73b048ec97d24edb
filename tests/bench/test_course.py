"""The learning rate and momentum that a course means, and the courses that mean nothing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR

from bench.course import Course
from bench.errors import IncompleteError, IntegrityError, UsageError


def ours(course: Course, steps: int) -> list[tuple[float, float]]:
    return [course.rate(epoch, step, steps) for epoch in range(1, course.epochs + 1) for step in range(steps)]


def theirs(scheduler: type[LRScheduler], count: int, **settings: Any) -> list[tuple[float, float]]:
    """Rate and momentum of torch's scheduler at each of `count` steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is moved before the optimiser
        schedule = scheduler(optimizer, **settings)
        for _ in range(count):
            found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            if len(found) < count:
                schedule.step()
    return found


def near(found: list[tuple[float, float]], expected: list[tuple[float, float]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("epochs", "steps", "lr", "peak"),
    [
        (50, 17, 0.21, 0.25),
        (30, 7, 0.1, 0.3),
        (5, 1, 0.2, 0.0),
        (3, 9, 0.4, 1.0),
        (1, 40, 0.1, 0.25),
        (400, 2, 0.2, 0.025),
    ],
)
def test_one_cycle_by_step_is_torchs(epochs: int, steps: int, lr: float, peak: float) -> None:
    """OneCycleLR over a whole course, momentum from 0.95 to 0.85 and back."""
    course = Course(epochs=epochs, lr=lr, schedule="one-cycle", rate_by="step", peak=peak, drops=())
    near(ours(course, steps), theirs(OneCycleLR, epochs * steps, max_lr=lr, total_steps=epochs * steps, pct_start=peak))


@pytest.mark.parametrize(("epochs", "peak"), [(400, 0.025), (50, 0.25), (10, 1.0), (10, 0.0), (1, 0.0)])
def test_one_cycle_by_epoch_is_torchs_stepped_every_epoch(epochs: int, peak: float) -> None:
    """All steps of an epoch have the rate that OneCycleLR has in its epoch-th step."""
    course = Course(epochs=epochs, lr=0.2, schedule="one-cycle", peak=peak, drops=())
    each = theirs(OneCycleLR, epochs, max_lr=0.2, total_steps=epochs, pct_start=peak)
    near(ours(course, 3), [pair for pair in each for _ in range(3)])


@pytest.mark.parametrize(("epochs", "peak"), [(4, 0.25), (1, 1.0), (2, 0.5)])
def test_a_rise_of_one_step_is_at_the_top_where_torch_divides_by_zero(epochs: int, peak: float) -> None:
    """The first step has the whole rate."""
    with pytest.raises(ZeroDivisionError):
        theirs(OneCycleLR, epochs, max_lr=0.2, total_steps=epochs, pct_start=peak)
    course = Course(epochs=epochs, lr=0.2, schedule="one-cycle", peak=peak, drops=())
    assert course.rate(1, 0, 5) == pytest.approx((0.2, 0.85))


@pytest.mark.parametrize(
    ("epochs", "steps", "lr", "peak"),
    [(15, 391, 0.2, 0.5), (10, 30, 5e-3, 0.4), (10, 8, 0.04, 0.5), (1, 10, 0.1, 0.5), (1, 1, 0.1, 0.5)],
)
def test_the_triangle_is_torchs_cyclic_rate(epochs: int, steps: int, lr: float, peak: float) -> None:
    """CyclicLR as fast_adversarial sets it: from 0 to lr and back to 0, momentum 0.9 to 0.8 to 0.9."""
    course = Course(epochs=epochs, lr=lr, schedule="triangle", rate_by="step", peak=peak, drops=())
    total = epochs * steps
    cyclic = theirs(CyclicLR, total, base_lr=0, max_lr=lr, step_size_up=peak * total, step_size_down=(1 - peak) * total)
    near(ours(course, steps), cyclic)


@pytest.mark.parametrize(("peak", "first", "last"), [(0.0, 0.2, 0.02), (1.0, 0.0, 0.18)])
def test_a_triangle_may_only_fall_or_only_rise(peak: float, first: float, last: float) -> None:
    """Ten steps, by hand: a tenth of the way each."""
    course = Course(epochs=10, lr=0.2, schedule="triangle", peak=peak, drops=())
    rates = [rate for rate, _ in ours(course, 1)]
    assert (rates[0], rates[-1]) == pytest.approx((first, last))


def test_momentum_stands_still_where_it_is_asked_to() -> None:
    """cycle_momentum off: 0.9 throughout."""
    for schedule in ("one-cycle", "triangle"):
        course = Course(epochs=9, schedule=schedule, cycle_momentum=False, drops=())
        assert {momentum for _, momentum in ours(course, 2)} == {0.9}


def test_drops_by_epoch_count_from_one() -> None:
    """TRADES on CIFAR: 0.1 up to epoch 74, 0.01 in its last two epochs, 75 and 76."""
    course = Course(epochs=76, lr=0.1, drops=(75, 90, 100))
    rates = [course.rate(e, step, 4)[0] for e in (1, 59, 60, 74, 75, 76) for step in range(4)]
    assert rates == pytest.approx([0.1] * 16 + [0.01] * 8)


@pytest.mark.parametrize("steps", [1, 7, 391])
def test_drops_by_step_fall_in_the_step_that_completes_the_epoch(steps: int) -> None:
    """Rice et al.: step i of epoch e0 (from 0) is at t = e0 + (i + 1) / N; drops at a half and 3/4 of 200."""
    course = Course(epochs=200, lr=0.1, drops=(100, 150), rate_by="step")
    for epoch in (1, 99, 100, 101, 149, 150, 151, 200):
        for step in {0, steps // 2, steps - 1}:
            t = epoch - 1 + (step + 1) / steps
            expected = 0.1 if t / 200 < 0.5 else 0.01 if t / 200 < 0.75 else 0.001
            assert course.rate(epoch, step, steps) == (pytest.approx(expected), 0.9)


def test_falls_are_shares_of_the_first_rate() -> None:
    """GAIRAT's 0.01, 0.001, 0.0005 of 0.1 at epochs 60, 90, 110; LBGAT's 0.02 in the first epoch alone."""
    gairat = Course(epochs=120, lr=0.1, drops=(60, 90, 110), falls=(0.1, 0.01, 0.005))
    rates = [gairat.rate(e, 0, 1)[0] for e in (1, 59, 60, 89, 90, 109, 110, 120)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0005, 0.0005])
    lbgat = Course(epochs=100, lr=0.1, drops=(1, 2, 76, 91, 101), falls=(0.2, 1.0, 0.1, 0.01, 0.001))
    rates = [lbgat.rate(e, 0, 1)[0] for e in (1, 2, 75, 76, 90, 91, 100)]
    assert rates == pytest.approx([0.02, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 0}, "epochs=0: expected 1 or more"),
        ({"batch": 0}, "batch=0"),
        ({"lr": 0.0}, "lr=0.0: expected a rate above 0"),
        ({"lr": float("inf")}, "lr=inf"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"decay": -1.0}, "decay=-1.0: expected 0 or more"),
        ({"snapshots": -2}, "snapshots=-2"),
        ({"momentum": 1.0}, "momentum=1.0: expected a share"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"peak": 1.5}, "peak=1.5"),
        ({"fall": -0.1}, "fall=-0.1"),
        ({"extra_share": 1.0}, "extra_share=1.0"),
        ({"drops": (5, 3)}, "drops=.*expected epochs that rise"),
        ({"drops": (0,)}, "counted from 1"),
        ({"drops": (1.5,)}, "drops="),
        ({"drops": (3,), "falls": (0.1, 0.01)}, "falls=.*one share of lr for each of the drops"),
        ({"drops": (3,), "falls": (-0.1,)}, "falls="),
        ({"ema": 0.9, "swa": 3}, "not both"),
        ({"epochs": 5, "swa": 6}, "swa=6: expected an epoch of the 5"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov=True: expected sgd with momentum"),
        ({"nesterov": True, "optimizer": "adam"}, "nesterov=True"),
    ],
)
def test_a_course_that_means_nothing_is_named(settings: dict[str, Any], said: str) -> None:
    """What was wrong, and what was expected."""
    with pytest.raises(UsageError, match=said):
        Course(**settings)


def test_extra_images_are_pinned_by_their_content(tmp_path: Path) -> None:
    """The hash is filled in; one that was given must agree; a file that is absent is named."""
    path = tmp_path / "extra.npz"
    path.write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    asked = {"extra": str(path), "extra_sha256": ""}
    assert Course.pin(asked) == {"extra": str(path), "extra_sha256": abc}
    assert Course.pin({**asked, "extra_sha256": abc.upper()})["extra_sha256"] == abc
    with pytest.raises(IntegrityError, match=r"has the sha256 ba78.*expected 00"):
        Course.pin({**asked, "extra_sha256": "00"})
    for absent in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(IncompleteError, match=r"expected an \.npz with image"):
            Course.pin({**asked, "extra": str(absent)})
    assert Course.pin({"extra": "", "extra_sha256": ""}) == {"extra": "", "extra_sha256": ""}
