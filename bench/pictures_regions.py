"""What becomes of accuracy and robustness when training has a smaller budget on one region of the image at a time.

Every number is counted from records; the adversary of the exam has its whole budget everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import IncompleteError
from bench.portraits import Answer, Arrays, Row, keep, key_of, known
from bench.records import PictureModel
from bench.request import Request, resolve
from bench.stats import wilson
from bench.study import Arm, Point, Sitting, points

if TYPE_CHECKING:
    from bench.exam import Regions
    from bench.place import Place
    from bench.records import Picture

VERSION = 1
HEADS = (
    "region", "seed", "n", "clean", "clean low", "clean high", "robust", "robust low", "robust high",
)  # fmt: skip


def sitting(found: Regions, place: Place, low: float, settings: str, options: Mapping[str, Any]) -> Sitting:
    """The exam of all regions: what `bench run` would have for these recipes."""
    recipes = tuple(recipe.format(low=low, settings=settings) for _, recipe in found.recipes)

    def ask(recipes: tuple[str, ...]) -> Request:
        return Request(
            recipes, options["net"], options["dataset"], options["threat"], options["seeds"],
            columns=(options["column"],), n=options["n"] or 0,
        )  # fmt: skip

    arms = [
        Arm(0, region, lesson)
        for (region, _), recipe in zip(found.recipes, recipes, strict=True)
        for lesson in resolve(ask((recipe,)), place).lessons
    ]
    return Sitting(resolve(ask(recipes), place), tuple(arms))


def regions(
    found: Regions, sat: Sitting, place: Place, low: float, settings: str, column: str
) -> tuple[Picture, tuple[str, ...]]:  # fmt: skip
    """The picture of what the ledger has, and the regions that it lacks."""
    every = points(sat, place)
    there = [p for p in every if p.robust is not None and p.training is not None]
    missing = tuple(f"{p.arm.threat}, seed {p.arm.lesson.training.seed}" for p in every if p.robust is None)
    whole = found.recipes[0][0]
    if not any(p.arm.threat == whole for p in there) or len(there) < 2:
        raise IncompleteError(
            f"{place.ledger_root} lacks {', '.join(missing)} of the experiment {found.name}; --run makes them"
        )
    models = [
        PictureModel(
            label=t.label, threat=t.threat, seed=t.seed, which="best", net=t.net, weights=t.weights["best"]
        )
        for p in there if (t := p.training) is not None
    ]  # fmt: skip
    facts = {
        "experiment": found.name, "low": low, "settings": settings, "column": column, "threat": str(sat.exam.threat),
        "n": sat.exam.n, "regions": [p.arm.threat for p in there],
    }  # fmt: skip
    dataset = sat.exam.dataset
    key = key_of("regions", VERSION, models, dataset.test.hash, (), facts)
    arrays: Arrays = {
        "clean": np.array([p.clean for p in there], np.int32), "robust": np.array([p.robust for p in there], np.int32),
        "n": np.array([p.n for p in there], np.int32),
    }  # fmt: skip
    rows = _rows(there)
    return known(place, key) or keep(
        place, dataset, Answer(arrays, HEADS, rows), kind="regions", version=VERSION, models=models, images=(),
        settings=facts,
    ), missing  # fmt: skip


def _rows(there: Sequence[Point]) -> list[Row]:
    """A line for each region and seed; shares of 1 with their intervals."""
    return [
        [
            p.arm.threat, p.arm.lesson.training.seed, p.n, p.clean / p.n, *wilson(p.clean, p.n), p.robust / p.n,
            *wilson(p.robust, p.n),
        ]
        for p in there if p.clean is not None and p.robust is not None
    ]  # fmt: skip
