"""What the ledger holds: records of cells and trainings, and cards of data sets and columns, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from bench.exam import Cell, Precision, Training, digest
from bench.recipe import Access

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Machine(_Document):
    """Where a record was made."""

    device: str  # cpu | cuda
    name: str  # the processor's or accelerator's
    threads: int
    tile: int  # images a pass; 0 for trainings


class Spent(_Document):
    """What a record cost: model passes counted in images, and seconds on the clock."""

    forwards: int
    backwards: int
    seconds: float


class Origin(_Document):
    """Which software made a record."""

    machine: Machine
    versions: dict[str, str]
    commit: str  # of Rampart's own checkout; empty when installed from elsewhere
    made: str  # UTC, ISO 8601


class Record(_Document):
    """Which images a cell was asked about, and which fell.  `key` is the cell's."""

    schema_: Literal["rampart/record-1"] = Field("rampart/record-1", alias="schema")
    key: Hash
    net: str
    weights: Hash
    dataset: str  # the name, for people
    test: Hash  # the test part's hash, which is what counts
    condition: str
    threat: str | None
    attack: str
    seed: int
    precision: Precision
    asked: list[int]  # places in the test part
    fell: list[int]
    images: Hash  # the sidecar beside this file: predicted, margin, distance, forwards, backwards of each asked image
    bundle: Hash | None  # the fallen images in the store; None where none fell, and of clean, which makes none
    source: Hash  # of the attack's module
    access: Access | None = None  # what the attack may ask of the model; None where it is not known
    cost: Spent
    run: Hash | None = None  # the cell whose record counts the passes, where one run answered several cells
    doubts: list[str]
    machine: Machine
    versions: dict[str, str]
    commit: str
    made: str

    @property
    def cell(self) -> Cell:
        """What was asked."""
        return Cell(
            self.net, self.weights, self.test, self.condition, self.threat, self.attack, self.seed, self.precision
        )

    @model_validator(mode="after")
    def _whole(self) -> Record:
        if not self.asked or len(set(self.asked)) != len(self.asked) or min(self.asked) < 0:
            raise ValueError("asked must be distinct places of images, at least one")
        if not set(self.fell) <= set(self.asked) or len(set(self.fell)) != len(self.fell):
            raise ValueError("fell must be distinct places of images that were asked")
        if self.key != self.cell.key:
            raise ValueError("the key is not that of its cell: a field was changed")
        return self


class TrainingRecord(_Document):
    """How weights were made.  `key` is the training's."""

    schema_: Literal["rampart/training-1"] = Field("rampart/training-1", alias="schema")
    key: Hash
    defense: str  # recipe keys
    net: str
    label: str  # the defense as a person would write it
    net_label: str
    dataset: str
    train: Hash
    val: Hash
    threat: str  # empty where the weights do not depend on one
    seed: int
    parameters: int
    macs: int | None = None  # multiply-adds of one forward of one image; None where they were not counted
    weights: dict[Annotated[str, Field(pattern=r"^(best|last|epoch-[0-9]+)$")], Hash]
    history: list[dict[str, Any]]  # an entry an epoch
    cost: Spent
    source: Hash
    machine: Machine
    versions: dict[str, str]
    commit: str
    made: str

    @model_validator(mode="after")
    def _keyed(self) -> TrainingRecord:
        if self.key != Training(self.defense, self.net, self.train, self.val, self.threat, self.seed).key:
            raise ValueError("the key is not that of its training: a field was changed")
        return self


class DatasetCard(_Document):
    """What the board needs to know of a data set's test part.  `key` is the hash of that part."""

    schema_: Literal["rampart/dataset-1"] = Field("rampart/dataset-1", alias="schema")
    key: Hash
    name: str
    classes: list[str]
    channels: int
    size: int
    labels: list[int]


class ColumnCard(_Document):
    """Which attacks a column is.  `key` is the hash of the rest."""

    schema_: Literal["rampart/column-1"] = Field("rampart/column-1", alias="schema")
    key: Hash
    name: str
    attacks: list[str]  # recipe keys
    strict: bool
    first: int = 0  # of the test images; 0 is all
    norm: str = ""  # of the threats that it is for, where it has other attacks under others


class ExamCard(_Document):
    """Which threat the columns were asked for on a test part.  `key` is the hash of the rest.

    The cells of minimum-norm attacks do not say it: their distances are judged under each of these threats.
    """

    schema_: Literal["rampart/exam-1"] = Field("rampart/exam-1", alias="schema")
    key: Hash
    test: Hash
    threat: str
    columns: list[str]  # names
    n: int  # of the first test images


class Doubted(_Document):
    """A reason to distrust a model, with its evidence."""

    code: str
    text: str
    images: list[int]  # places in the test part where it shows
    figures: dict[str, float]
    what: str  # names of modules or tensors; empty where it is about none


class CheckRecord(_Document):
    """What the checks before any attack said of weights on a test part.  `key` is the hash of what was checked."""

    schema_: Literal["rampart/check-1"] = Field("rampart/check-1", alias="schema")
    key: Hash
    net: str
    weights: Hash
    dataset: str  # the name, for people
    test: Hash
    version: int  # of the checks
    n: int  # the first so many test images were looked at
    doubts: list[Doubted]
    figures: dict[str, float]  # gradient_honesty: the share of images whose gradients are those of the answers
    cost: Spent
    machine: Machine
    versions: dict[str, str]
    commit: str
    made: str

    @model_validator(mode="after")
    def _keyed(self) -> CheckRecord:
        if self.key != check_key(self.net, self.weights, self.test, self.version):
            raise ValueError("the key is not that of its check: a field was changed")
        return self


def check_key(net: str, weights: str, test: str, version: int) -> str:
    """The name of a check in the ledger."""
    return digest({"check": {"net": net, "weights": weights, "test": test, "version": version}})


Document = Record | TrainingRecord | DatasetCard | ColumnCard | ExamCard | CheckRecord
_ANY: TypeAdapter[Document] = TypeAdapter(Annotated[Document, Field(discriminator="schema_")])


def read_document(text: str | bytes) -> Document:
    """A document from its JSON; ValueError says what is wrong with it."""
    return _ANY.validate_json(text)


def write_document(document: Document) -> str:
    """A document's JSON: one line, keys in the order above."""
    return document.model_dump_json(by_alias=True) + "\n"
