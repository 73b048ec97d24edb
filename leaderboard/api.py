"""The documents of the JSON interface, version 1, and their JSON Schema: one source for both.

A field is only ever added; one that must change its meaning makes a version 2 beside this one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from leaderboard.api_words import Address, Count, FindingOf, RuleOf, Seconds, Share
from leaderboard.api_words import Strict as _Strict

VERSION = 1
FOLDER = "api/v1"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Cost(_Strict):
    """Passes counted in images, and seconds on the clock."""

    forwards: Count
    backwards: Count
    seconds: Seconds


@dataclass(frozen=True)
class Result(_Strict):
    """An accuracy: standing / (n * conditions) of the first n test images; low and high end the 95 % Wilson interval.

    bound: images that nobody has decided count as standing, so that the accuracy is this or less.
    partial: on fewer images than clean was asked.  attack_seeds: the seed of each attack.  certified: how many of these
    images are proven to stand, whatever the attack; null where nobody tried, and but in the column that sums up.
    """

    accuracy: Share
    low: Share
    high: Share
    standing: Count
    n: Annotated[int, Field(ge=1)]
    conditions: Annotated[int, Field(ge=1)]
    bound: bool
    partial: bool
    cost: Cost
    attack_seeds: dict[str, int]
    certified: Count | None


@dataclass(frozen=True)
class Several(_Strict):
    """The mean over training seeds, and sd, the sample standard deviation; null while a seed is undecided.

    Then mean is an upper bound.  least and most: images behind a seed's number.
    """

    mean: Share
    sd: Annotated[float, Field(ge=0)] | None
    seeds: Annotated[int, Field(ge=1)]
    decided: Count
    bound: bool
    least: Count
    most: Count


@dataclass(frozen=True)
class Doubted(_Strict):
    """A reason to distrust a row, and the attacks that it comes from."""

    text: str
    attacks: list[str]


@dataclass(frozen=True)
class ColumnOf(_Strict):
    """A column: the union of these attacks, or the mean over these conditions.

    strict: an image that the clean model gets wrong counts as fallen.  first: it is about so many of the first test
    images; 0 is all.
    """

    name: str
    of: list[str]
    strict: bool
    first: Count


@dataclass(frozen=True)
class RowOf(_Strict):
    """A set of weights on a board.

    division: which rows it competes with.  tier: measured (counted from records of this ledger), or verified.  rank:
    the best and the worst place that a row which stands for itself may have; null for a seed of a group, where the
    summary is a bound or a mean, and where the row is not trusted.  distrust: why it is not.  before_probes: what
    summed it up before the attacks were asked that its doubts call for; null where none was.  gradient_honesty: the
    share of images at which the gradients are the slopes of the answers; null where it was not measured.
    """

    defense: str
    net: str
    net_key: str
    weights: str
    which: str | None
    seed: int | None
    training: str | None
    trained_for: str | None
    trained_on: str | None
    parameters: Count | None
    multiply_adds: Count | None
    training_seconds: Seconds | None
    division: str
    tier: str
    rank: list[int] | None
    results: dict[str, Result]
    summary: Result | None
    cost: Cost
    doubts: list[Doubted]
    notes: list[str]
    model: Address
    badge: Address
    trusted: bool
    distrust: list[str]
    before_probes: Result | None
    gradient_honesty: Share | None


@dataclass(frozen=True)
class GroupOf(_Strict):
    """The rows of one defense that differ in their training seed alone."""

    defense: str
    net: str
    net_key: str
    which: str
    seeds: list[int]
    weights: list[str]
    rank: list[int] | None
    results: dict[str, Several]
    summary: Several | None
    trusted: bool
    before_probes: Several | None


@dataclass(frozen=True)
class BoardDocument(_Strict):
    """A board: what one data set, threat and condition say.  Rows and groups of seeds are the best first.

    summary: what the column that sums up is: worst, the union of all strict columns but clean, or a mean.
    """

    schema: Annotated[str, Field(pattern=r"^rampart/api-board-1$")]
    id: str
    dataset: str
    test: str
    threat: str | None
    condition: str
    n: Count
    test_images: Count | None
    columns: list[ColumnOf]
    summary: str | None
    rows: list[RowOf]
    groups: list[GroupOf]


@dataclass(frozen=True)
class BoardEntry(_Strict):
    """A board in the list, and where it lies in every format."""

    id: str
    dataset: str
    test: str
    threat: str | None
    condition: str
    rows: Count
    n: Count
    columns: list[str]
    page: Address
    json: Address
    csv: Address
    markdown: Address
    latex: Address
    bibtex: Address


@dataclass(frozen=True)
class BoardsDocument(_Strict):
    """All boards."""

    schema: Annotated[str, Field(pattern=r"^rampart/api-boards-1$")]
    boards: list[BoardEntry]


@dataclass(frozen=True)
class TrainingOf(_Strict):
    """How weights were made; recipe is every setting of the defense."""

    key: str
    defense: str
    recipe: str
    net: str
    dataset: str
    threat: str
    seed: int
    which: list[str]
    seconds: Seconds
    made: str


@dataclass(frozen=True)
class OnBoard(_Strict):
    """A model's results on one board; of several trainings that made these weights, what holds of the last one."""

    board: str
    results: dict[str, Result]
    summary: Result | None
    doubts: list[Doubted]
    division: str
    trusted: bool
    findings: list[FindingOf]
    rules: list[RuleOf]
    before_probes: Result | None
    gradient_honesty: Share | None


@dataclass(frozen=True)
class ModelDocument(_Strict):
    """A set of weights of a net: how it was made, and what every board says of it."""

    schema: Annotated[str, Field(pattern=r"^rampart/api-model-1$")]
    id: str
    net: str
    net_key: str
    weights: str
    trainings: list[TrainingOf]
    boards: list[OnBoard]


@dataclass(frozen=True)
class ModelEntry(_Strict):
    """A model in the list."""

    id: str
    defenses: list[str]
    net: str
    weights: str
    boards: list[str]
    json: Address


@dataclass(frozen=True)
class ModelsDocument(_Strict):
    """All models that stand on a board."""

    schema: Annotated[str, Field(pattern=r"^rampart/api-models-1$")]
    models: list[ModelEntry]


@dataclass(frozen=True)
class AttackEntry(_Strict):
    """An attack with all its settings: how many records, models and images it was asked about, and what it cost."""

    attack: str
    name: str
    access: str | None
    records: Count
    models: Count
    images: Annotated[int, Field(ge=0, description="asked, over all records")]
    fell: Count
    cost: Cost


@dataclass(frozen=True)
class AttacksDocument(_Strict):
    """All attacks."""

    schema: Annotated[str, Field(pattern=r"^rampart/api-attacks-1$")]
    attacks: list[AttackEntry]


@dataclass(frozen=True)
class Day(_Strict):
    """A day (UTC) on which records or trainings were made, and the boards that they are part of."""

    date: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    records: Count
    trainings: Count
    boards: list[str]


@dataclass(frozen=True)
class HistoryDocument(_Strict):
    """The days on which the boards changed, the first one first.

    Records are never changed or removed, so that `bench publish --as-of DATE` makes the site as it was.
    undated: records whose time cannot be read.
    """

    schema: Annotated[str, Field(pattern=r"^rampart/api-history-1$")]
    days: list[Day]
    undated: Count


@dataclass(frozen=True)
class ParityCell(_Strict):
    """A number of a paper beside ours, in percent; z in standard errors, or why there is none."""

    column: str
    paper: float
    paper_sd: float | None
    ours: float | None
    ours_sd: float | None
    interval: list[float] | None
    seeds: Count
    n: Count
    difference: float | None
    z: float | None
    why_no_z: str | None


@dataclass(frozen=True)
class ParityRow(_Strict):
    """A row of a published table, one variant of its recipe and which weights; trained: every setting of ours.

    doubts: those about our models that say that a number lies.
    """

    row: str
    dataset: str
    net: str
    threat: str
    defense: str
    said: dict[str, str | int | float]
    recipe: str
    variant: str | None
    weights: str
    seeds: list[int]
    trained: str | None
    older: Count
    columns: dict[str, ParityCell]
    doubts: list[str]


@dataclass(frozen=True)
class ParityDocument(_Strict):
    """A published table beside ours; run: how many of its cells have a number of ours."""

    schema: Annotated[str, Field(pattern=r"^rampart/api-parity-1$")]
    paper: str
    arxiv: str
    table: str
    about: str
    runs: Count
    notes: list[str]
    cells: Count
    run: Count
    rows: list[ParityRow]


@dataclass(frozen=True)
class ReportedOf(_Strict):
    """A model as a board elsewhere reports it; percentages as they are written there.  None of it was measured here."""

    name: str
    dataset: str
    threat: str
    eps: str
    clean: float
    autoattack: float | None
    worse: float | None
    corruptions: float | None
    claimed: float | None
    doubted: bool
    architecture: str
    extra_data: bool
    paper: str
    link: str
    venue: str
    weights: bool
    licence: str
    recipe: str | None


@dataclass(frozen=True)
class ReportedBoard(_Strict):
    """A board elsewhere, its models in its order, and when it was written down here."""

    board: str
    made: str
    tier: str
    models: list[ReportedOf]


@dataclass(frozen=True)
class ReportedDocument(_Strict):
    """What is reported elsewhere; never ranked with what was measured."""

    schema: Annotated[str, Field(pattern=r"^rampart/api-reported-1$")]
    boards: list[ReportedBoard]


@dataclass(frozen=True)
class IndexDocument(_Strict):
    """What there is, and what it is made from."""

    schema: Annotated[str, Field(pattern=r"^rampart/api-1$")]
    version: int
    as_of: str | None
    records: Count
    trainings: Count
    made: list[str]
    commits: list[str]
    versions: dict[str, list[str]]
    documents: dict[str, Address]
    parity: dict[str, Address]
    schemas: dict[str, Address]


DOCUMENTS: Mapping[str, type[Any]] = {
    "index": IndexDocument,
    "boards": BoardsDocument,
    "board": BoardDocument,
    "models": ModelsDocument,
    "model": ModelDocument,
    "attacks": AttacksDocument,
    "history": HistoryDocument,
    "parity": ParityDocument,
    "reported": ReportedDocument,
}


def written(document: object) -> bytes:
    """A document as JSON; records hold no float that JSON has no word for."""
    name = next(name for name, kind in DOCUMENTS.items() if kind is type(document))
    return _adapter(name).dump_json(document, indent=1 if name == "index" else None) + b"\n"


def read(kind: str, facts: Mapping[str, Any]) -> Any:
    """A document of a kind from plain values; ValueError where they are not those of the kind."""
    return _adapter(kind).validate_python(facts)


@lru_cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(DOCUMENTS[name])


def schemas() -> dict[str, bytes]:
    """The JSON Schema of each kind of document, by its name."""
    found = {}
    for name in DOCUMENTS:
        schema = {
            "$schema": _DIALECT,
            "$id": f"{name}.schema.json",
            **_adapter(name).json_schema(mode="serialization"),
        }
        found[name] = (json.dumps(schema, indent=1, ensure_ascii=False) + "\n").encode()
    return found
