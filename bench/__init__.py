"""The core of Rampart; these are its public words, and each is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.bpda import Bpda
    from bench.draws import Draws
    from bench.errors import (
        AttackError,
        IncompleteError,
        IntegrityError,
        RampartError,
        TrainingError,
        UsageError,
        nearest,
    )
    from bench.exam import Cell, Column, Condition, Dataset, Part, Precision, Shape, Suite, Training
    from bench.fetch import download
    from bench.files import locked, write_atomically
    from bench.ledger import Ledger
    from bench.recipe import (
        Alias,
        Attack,
        Corruption,
        DatasetLoader,
        Defense,
        Net,
        Preset,
        Recipe,
        Value,
        attack,
        corruption,
        dataset,
        defense,
        net,
    )
    from bench.records import ColumnCard, DatasetCard, ExamCard, Record, TrainingRecord
    from bench.stats import wilson
    from bench.store import Store
    from bench.threat import ThreatModel, per_image_sum
    from bench.training import Augment, Batch, TrainJob, fit
    from bench.victim import Model
    from bench.zoo import Published, Zoo

__all__ = [
    "Alias",
    "Attack",
    "AttackError",
    "Augment",
    "Batch",
    "Bpda",
    "Cell",
    "Column",
    "ColumnCard",
    "Condition",
    "Corruption",
    "Dataset",
    "DatasetCard",
    "DatasetLoader",
    "Defense",
    "Draws",
    "ExamCard",
    "IncompleteError",
    "IntegrityError",
    "Ledger",
    "Model",
    "Net",
    "Part",
    "Precision",
    "Preset",
    "Published",
    "RampartError",
    "Recipe",
    "Record",
    "Shape",
    "Store",
    "Suite",
    "ThreatModel",
    "TrainJob",
    "Training",
    "TrainingError",
    "TrainingRecord",
    "UsageError",
    "Value",
    "Zoo",
    "attack",
    "corruption",
    "dataset",
    "defense",
    "download",
    "fit",
    "locked",
    "nearest",
    "net",
    "per_image_sum",
    "wilson",
    "write_atomically",
]

_HOMES = {
    word: home
    for home, words in {
        "bpda": "Bpda",
        "draws": "Draws",
        "errors": "AttackError IncompleteError IntegrityError RampartError TrainingError UsageError nearest",
        "exam": "Cell Column Condition Dataset Part Precision Shape Suite Training",
        "fetch": "download",
        "files": "locked write_atomically",
        "ledger": "Ledger",
        "recipe": "Alias Attack Corruption DatasetLoader Defense Net Preset Recipe Value"
        " attack corruption dataset defense net",
        "records": "ColumnCard DatasetCard ExamCard Record TrainingRecord",
        "stats": "wilson",
        "store": "Store",
        "threat": "ThreatModel per_image_sum",
        "training": "Augment Batch TrainJob fit",
        "victim": "Model",
        "zoo": "Published Zoo",
    }.items()
    for word in words.split()
}


def __getattr__(name: str) -> Any:
    """The word of that name, from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All words, also those that were not used yet."""
    return sorted({*globals(), *__all__})
