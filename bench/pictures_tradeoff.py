"""What robustness costs: accuracy over the eps of training and examination, and over training images.

Every number is counted from records of the ledger; nothing is attacked here.  Of a linear net on two classes there are
also its weights, and how each pixel goes together with the label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from bench.errors import IncompleteError, UsageError
from bench.portraits import Answer, Arrays, Row, keep, key_of, known
from bench.records import PictureModel
from bench.stats import wilson
from bench.study import Arm, Point, Sitting, points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.exam import Dataset, Part, Study
    from bench.place import Place
    from bench.records import Picture, TrainingRecord

VERSION = 2
HEADS = (
    "training images", "trained for", "seed", "examined under", "n", "clean", "clean low", "clean high",
    "robust", "robust low", "robust high",
)  # fmt: skip


def tradeoff(study: Study, sat: Sequence[Sitting], place: Place) -> tuple[Picture, tuple[str, ...]]:
    """The picture of what the ledger has of a study, and the points that it lacks, in words."""
    every = [(point, sitting) for sitting in sat for point in points(sitting, place)]
    there = [point for point, _ in every if point.robust is not None]
    missing = tuple(_named(point, sitting) for point, sitting in every if point.robust is None)
    if not there:
        raise IncompleteError(
            f"{place.ledger_root} has no point of the study {study.name} yet, of {len(missing)}; --plan says what they "
            "cost, and --run makes them"
        )
    dataset = sat[0].exam.dataset
    counted = [_row(point, _images(point, sitting)) for point, sitting in every if point.robust is not None]
    order = dict.fromkeys(arm for sitting in sat for arm in sitting.arms if arm.threat in _own(sitting))
    found = {point.arm: point.training for point in there}
    trained = {arm: record for arm in order if (record := found.get(arm)) is not None}
    models = [_model(record) for record in trained.values()]
    settings = {
        "study": study.name, "net": study.net, "column": study.column, "n": there[0].n,
        "main": [f"{norm}:{eps}" for norm, eps in study.main],
        "eps": [f"{norm}:{eps}" for norm, every in study.eps for eps in every],
        "points": len(there), "missing": len(missing),
    }  # fmt: skip
    key = key_of("tradeoff", VERSION, models, dataset.test.hash, (), settings)
    picture = known(place, key) or keep(
        place, dataset, Answer(_arrays(study, there, trained, dataset, place), HEADS, counted), kind="tradeoff",
        version=VERSION, models=models, images=(), settings=settings,
    )  # fmt: skip
    return picture, missing


def _own(sitting: Sitting) -> tuple[str, ...]:
    """What the arms of a sitting's own norm are trained for."""
    norm = sitting.exam.threat.norm
    return tuple(arm.threat for arm in sitting.arms if not arm.threat or arm.threat.startswith(f"{norm}:"))


def _images(point: Point, sitting: Sitting) -> int:
    """How many training images the point's model had."""
    return len(sitting.exam.dataset.train)


def _named(point: Point, sitting: Sitting) -> str:
    arm = point.arm
    trained = f"{arm.lesson.label} for {arm.threat}" if arm.threat else arm.lesson.label
    seed = f", seed {arm.lesson.training.seed}"
    return f"{trained} on {_images(point, sitting):,} images{seed}, under {point.threat}"


def _row(point: Point, images: int) -> Row:
    """A line of the table; shares of 1 with their intervals."""
    assert point.clean is not None and point.robust is not None
    return [
        images, point.arm.threat or "standard", point.arm.lesson.training.seed, point.threat, point.n,
        point.clean / point.n, *wilson(point.clean, point.n), point.robust / point.n, *wilson(point.robust, point.n),
    ]  # fmt: skip


def _model(record: TrainingRecord) -> PictureModel:
    return PictureModel(
        label=record.label, threat=record.threat, seed=record.seed, which="best", net=record.net,
        weights=record.weights["best"],
    )  # fmt: skip


def _arrays(
    study: Study, there: Sequence[Point], trained: Mapping[Arm, TrainingRecord], dataset: Dataset, place: Place
) -> Arrays:  # fmt: skip
    """How many stand of how many, a value a line of the table; and of a linear study weights and correlations."""
    arrays: Arrays = {
        "clean": np.array([p.clean for p in there], np.int32), "robust": np.array([p.robust for p in there], np.int32),
        "n": np.array([p.n for p in there], np.int32),
    }  # fmt: skip
    if study.linear:
        arrays["correlation"] = correlation(dataset.train)
        arrays["weights"] = np.stack([
            linear_weights(place, r.net, r.weights["best"], dataset) for r in trained.values()
        ])  # fmt: skip
    return arrays


def correlation(train: Part) -> NDArray[np.float32]:
    """Pearson's correlation of each pixel with the label, -1 for the first class and 1 for the second: (C, H, W).

    Where a pixel never changes it is 0.
    """
    x = train.x.astype(np.float64) / 255
    y = 2.0 * train.y - 1
    x, y = x - x.mean(0), y - y.mean()
    both = np.tensordot(y, x, 1)
    size = np.sqrt((x**2).sum(0) * (y**2).sum())
    found: NDArray[np.float32] = np.divide(both, size, out=np.zeros_like(both), where=size > 0).astype(np.float32)
    return found


def linear_weights(place: Place, net: str, weights: str, dataset: Dataset) -> NDArray[np.float32]:
    """What each pixel adds to the second class' logit over the first's: (C, H, W); an error where that varies."""
    if len(dataset.classes) != 2:
        raise UsageError(f"{dataset.name} has {len(dataset.classes)} classes; expected two for a linear study")
    module = place.subject(net, weights, dataset.shape).module
    ends = torch.stack([torch.zeros(dataset.test.x.shape[1:]), torch.ones(dataset.test.x.shape[1:])])
    ends = ends.to(place.device).requires_grad_()
    logits = module(ends)
    (grad,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), ends)
    if not torch.allclose(grad[0], grad[1], rtol=1e-4, atol=1e-6):
        raise UsageError(f"the net {net} is not linear: its gradient is another at another image")
    found: NDArray[np.float32] = grad[0].float().cpu().numpy()
    return found
