"""The core of Rampart; these are its public words, and each is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.archives import unpack, workshop
    from bench.bpda import Bpda
    from bench.canary import Canary
    from bench.course import Course
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
    from bench.extra import extra_images
    from bench.feed import Batch
    from bench.fetch import PublishedFile, download
    from bench.files import locked, write_atomically
    from bench.fitting import fit
    from bench.ledger import Ledger
    from bench.pictures import Sheet
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
    from bench.records import (
        CertificateRecord,
        ColumnCard,
        DatasetCard,
        ExamCard,
        Record,
        ReportedCard,
        ReportedModel,
        TableCard,
        TableColumn,
        TrainingRecord,
        VerificationRecord,
        read_document,
    )
    from bench.registry import split_recipe
    from bench.stats import binomial_tail, holm, student_quantile, wilson
    from bench.store import Store
    from bench.threat import ThreatModel, per_image_sum
    from bench.training import Mode, TrainJob, frozen
    from bench.victim import Model
    from bench.zoo import Finding, Published, Zoo

__all__ = [
    "Alias",
    "Attack",
    "AttackError",
    "Batch",
    "Bpda",
    "Canary",
    "Cell",
    "CertificateRecord",
    "Column",
    "ColumnCard",
    "Condition",
    "Corruption",
    "Course",
    "Dataset",
    "DatasetCard",
    "DatasetLoader",
    "Defense",
    "Draws",
    "ExamCard",
    "Finding",
    "IncompleteError",
    "IntegrityError",
    "Ledger",
    "Mode",
    "Model",
    "Net",
    "Part",
    "Precision",
    "Preset",
    "Published",
    "PublishedFile",
    "RampartError",
    "Recipe",
    "Record",
    "ReportedCard",
    "ReportedModel",
    "Shape",
    "Sheet",
    "Store",
    "Suite",
    "TableCard",
    "TableColumn",
    "ThreatModel",
    "TrainJob",
    "Training",
    "TrainingError",
    "TrainingRecord",
    "UsageError",
    "Value",
    "VerificationRecord",
    "Zoo",
    "attack",
    "binomial_tail",
    "corruption",
    "dataset",
    "defense",
    "download",
    "extra_images",
    "fit",
    "frozen",
    "holm",
    "locked",
    "nearest",
    "net",
    "per_image_sum",
    "read_document",
    "split_recipe",
    "student_quantile",
    "unpack",
    "wilson",
    "workshop",
    "write_atomically",
]

_HOMES = {
    word: home
    for home, words in {
        "archives": "unpack workshop",
        "bpda": "Bpda",
        "canary": "Canary",
        "course": "Course",
        "draws": "Draws",
        "errors": "AttackError IncompleteError IntegrityError RampartError TrainingError UsageError nearest",
        "exam": "Cell Column Condition Dataset Part Precision Shape Suite Training",
        "extra": "extra_images",
        "feed": "Batch",
        "fetch": "PublishedFile download",
        "files": "locked write_atomically",
        "fitting": "fit",
        "ledger": "Ledger",
        "pictures": "Sheet",
        "recipe": "Alias Attack Corruption DatasetLoader Defense Net Preset Recipe Value"
        " attack corruption dataset defense net",
        "records": "CertificateRecord ColumnCard DatasetCard ExamCard Record ReportedCard ReportedModel TableCard"
        " TableColumn TrainingRecord VerificationRecord read_document",
        "registry": "split_recipe",
        "stats": "binomial_tail holm student_quantile wilson",
        "store": "Store",
        "threat": "ThreatModel per_image_sum",
        "training": "Mode TrainJob frozen",
        "victim": "Model",
        "zoo": "Finding Published Zoo",
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
