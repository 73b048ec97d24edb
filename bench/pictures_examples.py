"""What a record's attack did to single images: before, after, the difference, and what the model took both for.

The images come from the record's bundle, the predictions from the model itself.  An image that stood has no example:
the bundle holds what fell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from bench import bundles
from bench.errors import IncompleteError, IntegrityError, UsageError
from bench.evaluate import images, misread
from bench.exam import Condition
from bench.official import corruption
from bench.place import THREADS
from bench.portraits import Answer, Arrays, Row, keep, key_of, known
from bench.records import PictureModel, Record, TrainingRecord
from bench.threat import ThreatModel
from bench.verify import Datasets
from bench.victim import be_exact

if TYPE_CHECKING:
    from bench.exam import Dataset
    from bench.place import Place
    from bench.records import Picture

VERSION = 1
SHOWN = 6  # images, where none are asked for


def examples(place: Place, prefix: str, asked: Sequence[int], datasets: Sequence[str] = ()) -> Picture:
    """The picture of the records of one cell, which the first digits of its key or of a record's file tell.

    asked: places in the test part; without any the first that fell.  datasets: where the record's own does not find it.
    """
    be_exact(THREADS)
    records = _records(place, prefix)
    record = next(iter(records.values()))
    if record.threat is None:
        raise UsageError(f"--record {prefix}: {name_of(record)} moves no image, so that there is nothing to show")
    known_of = sorted({i for r in records.values() for i in r.asked})
    fallen = sorted({i for r in records.values() for i in r.fell})
    for image in asked:
        if image not in known_of:
            raise UsageError(
                f"--images {image}: {name_of(record)} was not asked about it, but about {len(known_of):,} images from "
                f"{known_of[0]} to {known_of[-1]}"
            )
    chosen = list(dict.fromkeys(asked)) or fallen[:SHOWN] or known_of[:SHOWN]
    dataset = Datasets(place, datasets).of(record.test, record.dataset)
    settings = {
        "records": [file for file, r in records.items() if set(chosen) & set(r.asked)], "attack": record.attack,
        "threat": record.threat, "condition": record.condition, "seed": record.seed,
    }  # fmt: skip
    model = _model(place, record)
    there = known(place, key_of("examples", VERSION, [model], record.test, chosen, settings))
    return there or keep(
        place, dataset, _answer(place, list(records.values()), dataset, chosen), kind="examples", version=VERSION,
        models=[model], images=chosen, settings=settings,
    )  # fmt: skip


def name_of(record: Record) -> str:
    """The attack of a record, in a word."""
    return record.attack.partition("@")[0]


def _records(place: Place, prefix: str) -> dict[str, Record]:
    """The records of one cell, or the one record, that begin so; by the hash that names the file."""
    found: dict[str, Record] = {}
    for path, read in place.ledger.files():
        if path.stem.startswith(prefix) or path.parent.name.startswith(prefix):
            document = read()
            if isinstance(document, Record):
                found[path.stem] = document
    if not found:
        raise UsageError(f"--record {prefix}: no record in {place.ledger_root} has a key or a file that begins so")
    cells = {r.key: name_of(r) for r in found.values()}
    if len(cells) > 1:
        some = ", ".join(f"{key[:12]} ({name})" for key, name in list(cells.items())[:8])
        raise UsageError(f"--record {prefix}: {len(cells)} cells begin so: {some}")
    return found


def _model(place: Place, record: Record) -> PictureModel:
    """The record's model, by the name that its training gives it."""
    for document in place.ledger.all(lambda _said: None):
        if isinstance(document, TrainingRecord) and document.net == record.net:
            for which, weights in document.weights.items():
                if weights == record.weights:
                    return PictureModel(
                        label=document.label, threat=document.threat, seed=document.seed, which=which, net=record.net,
                        weights=weights,
                    )  # fmt: skip
    return PictureModel(
        label=f"weights {record.weights[:8]}", threat="", seed=0, which="best", net=record.net, weights=record.weights
    )


def _answer(place: Place, records: list[Record], dataset: Dataset, chosen: list[int]) -> Answer:
    record = records[0]
    condition = Condition.parse(record.condition)
    recipe = corruption(condition.corruption, place.registry, dataset) if condition.corruption else None
    if recipe and recipe.key != condition.corruption:
        raise IncompleteError(f"the record's condition is {record.condition}; this version has {recipe.key}")
    x, y = images(dataset.test, torch.tensor(chosen), place.device, recipe, condition.severity)
    x_adv, fell = x.clone(), np.zeros(len(chosen), bool)
    for bundle in (bundles.read(place.store, r.bundle, dataset.test) for r in records if r.bundle):
        at = {int(image): row for row, image in enumerate(bundle.ids)}
        for i, image in enumerate(chosen):
            if image in at and not fell[i]:
                x_adv[i], fell[i] = bundle.images[at[image]].to(x.device), True
    said = {i for r in records for i in r.fell}
    if lost := [i for i, has in zip(chosen, fell, strict=True) if i in said and not has]:
        raise IntegrityError(f"images {lost} fell by the record, and its bundle has no examples of them")
    subject = place.subject(record.net, record.weights, dataset.shape)
    before, after = (misread(subject, images, y)[0].argmax(1).cpu() for images in (x, x_adv))
    threat = ThreatModel.of_cell(record.threat or "")
    distance = threat.size(x_adv.double() - x.double()).cpu()
    arrays: Arrays = {
        "images": x.cpu().numpy(), "adversarial": x_adv.cpu().numpy(), "labels": dataset.test.y[chosen],
        "predicted": before.numpy(), "taken_for": after.numpy(), "fell": fell, "distance": distance.numpy(),
    }  # fmt: skip
    rows: list[Row] = []
    for i, image in enumerate(chosen):
        label, first, last = (dataset.classes[int(v[i])] for v in (arrays["labels"], before, after))
        end: Row = [last, float(distance[i])] if fell[i] else [None, None]
        rows.append([str(image), label, first, "fell" if fell[i] else "stands", *end])
    return Answer(arrays, ["image", "label", "predicted before", "outcome", "predicted after", "distance"], rows)
