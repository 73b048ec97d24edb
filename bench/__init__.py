"""The core of Rampart; these are its public words, and each is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.archives import unpack, workshop
    from bench.bpda import Bpda
    from bench.cam import Cam, heat, outlying, within
    from bench.canary import Canary
    from bench.contradiction import Asked, Contradiction, contradictions
    from bench.course import Course
    from bench.decided import reached
    from bench.doubts import REASONS, code_of, distrusts
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
    from bench.exam import Cell, Column, Condition, Dataset, Part, Precision, Regions, Shape, Study, Suite, Training
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
        PLACES,
        CertificateRecord,
        CheckRecord,
        ColumnCard,
        DatasetCard,
        ExamCard,
        Picture,
        PictureModel,
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
    from bench.together import ranks, sum_over_ranks
    from bench.training import Mode, TrainJob, frozen
    from bench.trust import is_stale, lies, newest
    from bench.victim import Model
    from bench.zoo import Finding, Published, Zoo

__all__ = [
    "PLACES",
    "REASONS",
    "Alias",
    "Asked",
    "Attack",
    "AttackError",
    "Batch",
    "Bpda",
    "Cam",
    "Canary",
    "Cell",
    "CertificateRecord",
    "CheckRecord",
    "Column",
    "ColumnCard",
    "Condition",
    "Contradiction",
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
    "Picture",
    "PictureModel",
    "Precision",
    "Preset",
    "Published",
    "PublishedFile",
    "RampartError",
    "Recipe",
    "Record",
    "Regions",
    "ReportedCard",
    "ReportedModel",
    "Shape",
    "Sheet",
    "Store",
    "Study",
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
    "code_of",
    "contradictions",
    "corruption",
    "dataset",
    "defense",
    "distrusts",
    "download",
    "extra_images",
    "fit",
    "frozen",
    "heat",
    "holm",
    "is_stale",
    "lies",
    "locked",
    "nearest",
    "net",
    "newest",
    "outlying",
    "per_image_sum",
    "ranks",
    "reached",
    "read_document",
    "split_recipe",
    "student_quantile",
    "sum_over_ranks",
    "unpack",
    "wilson",
    "within",
    "workshop",
    "write_atomically",
]

_HOMES = {
    word: home
    for home, words in {
        "archives": "unpack workshop",
        "bpda": "Bpda",
        "cam": "Cam heat outlying within",
        "canary": "Canary",
        "contradiction": "Asked Contradiction contradictions",
        "course": "Course",
        "decided": "reached",
        "doubts": "REASONS code_of distrusts",
        "draws": "Draws",
        "errors": "AttackError IncompleteError IntegrityError RampartError TrainingError UsageError nearest",
        "exam": "Cell Column Condition Dataset Part Precision Regions Shape Study Suite Training",
        "extra": "extra_images",
        "feed": "Batch",
        "fetch": "PublishedFile download",
        "files": "locked write_atomically",
        "fitting": "fit",
        "ledger": "Ledger",
        "pictures": "Sheet",
        "recipe": "Alias Attack Corruption DatasetLoader Defense Net Preset Recipe Value"
        " attack corruption dataset defense net",
        "records": "PLACES CertificateRecord CheckRecord ColumnCard DatasetCard ExamCard Picture PictureModel Record"
        " ReportedCard ReportedModel TableCard TableColumn TrainingRecord VerificationRecord read_document",
        "registry": "split_recipe",
        "stats": "binomial_tail holm student_quantile wilson",
        "store": "Store",
        "threat": "ThreatModel per_image_sum",
        "together": "ranks sum_over_ranks",
        "training": "Mode TrainJob frozen",
        "trust": "is_stale lies newest",
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
