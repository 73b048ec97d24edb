"""leaderboard/alarms.json: how often each doubt is raised about models that were trained honestly.

`make false-alarms` trains digits models and looks at them; with CONFORMANCE_LEDGER, CONFORMANCE_STORE and
CONFORMANCE_DATA also at those of a ledger, whose records are set side by side, too.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.contradiction import Asked, contradictions
from bench.doubts import REASONS, distrusts
from bench.errors import RampartError
from bench.honesty import check_model
from bench.obtain import obtain
from bench.origin import about
from bench.outcomes import fallen_within
from bench.place import THREADS, Place
from bench.records import Record, TrainingRecord
from bench.request import Request, resolve
from bench.stats import wilson
from bench.thorough import check_thoroughly
from bench.threat import ThreatModel
from bench.victim import be_exact

if TYPE_CHECKING:
    from bench.exam import Dataset

OUT = Path(__file__).parents[2] / "leaderboard" / "alarms.json"
SCHEMA = "rampart/alarms-1"
DEFENSES = ("standard", "at", "trades", "mart", "trades-awp", "vir-at")
SEEDS = (0, 1)
NETS = ("cnn", "softmax-regression")  # the second for the first alone
SIZES = {"digits": (24, 8), "mnist": (16, 2)}  # test images, and of these those that random search is asked about
MOST = 10  # models of a ledger


@dataclass(frozen=True)
class Model:
    """Weights that were trained honestly."""

    place: Place
    net: str
    weights: str
    dataset: Dataset
    threat: str
    label: str


@dataclass(frozen=True)
class Looked:
    """What each stage said of a model: the codes of its doubts."""

    label: str
    dataset: str
    before: tuple[str, ...]
    thorough: tuple[str, ...]
    records: tuple[str, ...] | None  # None where there are none
    figures: Mapping[str, float]  # of the thorough checks


def digits(folder: Path) -> Iterator[Model]:
    """Models that are trained here, in seconds each."""
    place = Place(folder / "ledger", folder / "store", folder / "data")
    for net in NETS:
        for defense in DEFENSES if net == "cnn" else DEFENSES[:1]:
            exam = resolve(Request((defense,), net=net, dataset="digits", seeds=SEEDS, columns=("clean",)), place)
            for lesson in exam.lessons:
                record, _ = obtain(place, lesson, report=lambda _line: None)
                label = f"{record.label} on {record.net_label}, seed {record.seed}"
                yield Model(place, record.net, record.weights["best"], exam.dataset, str(exam.threat), label)


def of_ledger(place: Place, dataset: str) -> Iterator[Model]:
    """The models that were trained in a ledger, no checkpoints; those of many defenses first."""
    loader = place.registry.parse("dataset", dataset)
    data, seen = place.dataset(loader), set()
    threat: str = getattr(loader.plugin, "threat", "")
    found = [d for d in place.ledger.all() if isinstance(d, TrainingRecord) and d.dataset == data.name]
    for record in sorted(found, key=lambda d: (d.seed, d.defense, d.key)):
        weights = record.weights.get("best", "")
        plugin = place.registry.things.get(("defense", record.defense.partition("@")[0]))
        if getattr(plugin, "trains", False) and weights in place.store and weights not in seen:
            seen.add(weights)
            yield Model(place, record.net, weights, data, threat, f"{record.label}, seed {record.seed}")


def look(model: Model, n: int, lucky: int) -> Looked:
    """What the checks say of a model, and what its records say side by side."""
    be_exact(THREADS)
    place, test = model.place, model.dataset.test
    one, other = (place.fresh(model.net, model.weights, model.dataset.shape) for _ in range(2))
    before = check_model(one, test, place.device).codes
    threat, find = ThreatModel.parse(model.threat), partial(place.registry.parse, "attack")
    thorough = check_thoroughly(other, test, threat, find, place.device, most=n, lucky=lucky)
    return Looked(model.label, model.dataset.name, before, thorough.codes, _from_records(model), thorough.figures)


def _from_records(model: Model) -> tuple[str, ...] | None:
    """The contradictions between the records of a model under its threat; None where no attack was recorded."""
    threat = ThreatModel.parse(model.threat)
    by_attack: dict[str, list[Record]] = {}
    for record in model.place.ledger.all():
        if not isinstance(record, Record) or record.threat not in (model.threat, threat.norm) or not record.access:
            continue
        if record.weights == model.weights and record.condition == "clean":
            by_attack.setdefault(record.attack, []).append(record)
    if not by_attack:
        return None
    cells = []
    for attack, records in sorted(by_attack.items()):
        asked = frozenset(i for r in records for i in r.asked)
        within = [r.fell if r.threat == model.threat else fallen_within(model.place.ledger, r, threat) for r in records]
        fell = frozenset(i for some in within for i in some)
        backwards = sum(r.cost.backwards for r in records) / max(1, len(asked - fell))
        cells.append(Asked(attack, records[0].access, backwards, asked, fell))
    return tuple(found.code for found in contradictions(cells))


STAGES = ("before", "thorough", "records")
OF_RECORDS = ("masked", "single-step", "imbalanced", "silent", "missed", "targets")
THOROUGH = ("scale", "budget", "luck", "converges", "targets", "step", "active", "rugged")  # draws: of random models


def codes_of(stage: str) -> tuple[str, ...]:
    """The doubts that a stage may raise."""
    if stage == "before":
        return tuple(code for code in REASONS if code not in {*OF_RECORDS, *THOROUGH, "draws", "drifts"})
    return THOROUGH if stage == "thorough" else OF_RECORDS


def document(looked: Sequence[Looked]) -> dict[str, Any]:
    """Rates as plain values: of each doubt the models that were looked at, and those about which it was raised."""
    rates = []
    for stage in STAGES:
        asked = [one for one in looked if getattr(one, stage) is not None]
        raised = Counter(code for one in asked for code in set(getattr(one, stage)))
        for code in codes_of(stage) if asked else ():
            _, high = wilson(raised[code], len(asked))
            rates.append(
                {
                    "code": code, "stage": stage, "models": len(asked), "raised": raised[code], "high": high,
                    "about": sorted(one.label for one in asked if code in getattr(one, stage)),
                }
            )  # fmt: skip
    counts = Counter(one.dataset for one in looked)
    about_ = [f"{count} on {name} ({SIZES[name][0]} images each)" for name, count in sorted(counts.items())]
    origin = about(torch.device("cpu"), 0)
    return {
        "schema": SCHEMA, "models": len(looked), "about": "trained honestly: " + ", ".join(about_),
        "alarms": {rate["code"]: rate["raised"] for rate in rates if rate["stage"] != "records"},
        "rates": rates,
        "looked": [
            {"label": one.label, "dataset": one.dataset, "figures": {k: round(v, 4) for k, v in one.figures.items()}}
            for one in looked
        ],
        "machine": origin["machine"].name, "versions": origin["versions"], "made": origin["made"],
    }  # fmt: skip


def table(document: dict[str, Any]) -> str:
    """The same as a part of docs/canaries.md."""
    rows = [
        f"| {r['code']} | {STAGE[r['stage']]} | {r['raised']} of {r['models']} | {100 * r['high']:.0f} |\n"
        for r in document["rates"]
    ]  # fmt: skip
    return (
        f"\n## False alarms\n\nHow often each doubt is raised about models that were {document['about']}. "
        "`make false-alarms` measures it. The last column is the upper end of the 95 % interval of the rate (Wilson), "
        "in percent. Doubts from records are about attacks as much as about models: that some attack finds more than "
        "another is true of honest models, too, and calls for a probe, not for distrust. MNIST models trained "
        "against 0.3 are known to hide their gradients: where theirs raise `active`, Square fells what gradients leave "
        "(`masked`).\n\n"
        "| doubt | from | raised about | at most |\n| --- | --- | ---: | ---: |\n" + "".join(rows)
    )


STAGE = {"before": "before any attack", "thorough": "the thorough checks", "records": "records side by side"}


def models(folder: Path, environment: Mapping[str, str]) -> Iterator[Model]:
    """All that are looked at, in turn from here and from a ledger."""
    others: Iterator[Model] = iter(())
    if environment.get("CONFORMANCE_LEDGER"):
        roots = [Path(environment[f"CONFORMANCE_{name}"]) for name in ("LEDGER", "STORE", "DATA")]
        others = islice(of_ledger(Place(*roots), "mnist"), MOST)
    for pair in zip_longest(digits(folder), others):
        yield from (model for model in pair if model is not None)


def main() -> int:
    """Measure, and write the file after each model; 1 where a doubt was raised that takes a row's trust away."""
    found: list[Looked] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models(Path(folder), os.environ):
            started = time.perf_counter()
            found.append(looked := look(model, *SIZES[model.dataset.name]))
            said = {stage: getattr(looked, stage) for stage in STAGES if getattr(looked, stage)}
            seconds = time.perf_counter() - started
            sys.stderr.write(f"{looked.dataset}: {looked.label}: {said or 'nothing'} ({seconds:.0f} s)\n")
            OUT.write_text(json.dumps(document(found), indent=1) + "\n")
    return int(any(distrusts(code) for one in found for code in (*one.before, *one.thorough)))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RampartError as error:
        sys.exit(f"false alarms: {error}")
