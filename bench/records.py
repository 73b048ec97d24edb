"""What the ledger holds: records of cells and trainings, and cards of data sets and columns, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from bench.exam import Cell, Precision, Training, digest
from bench.recipe import Access

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PLACES = 1 << 24  # of images: beyond any test part, and a bitmap of them is 2 MiB
Images = Annotated[int, Field(ge=0, le=PLACES)]  # so many
Percent = Annotated[float, Field(allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Machine(_Document):
    """Where a record was made."""

    device: str  # cpu | cuda
    name: str  # the processor's or accelerator's
    threads: int
    tile: int  # images a pass; 0 for trainings
    sandbox: str = ""  # how a plugin's code was kept apart: bubblewrap, limits, or not at all

    @model_serializer(mode="wrap")
    def _short(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the sandbox where there was none: those records stay what they were."""
        written: dict[str, Any] = write(self)
        return {k: v for k, v in written.items() if k != "sandbox" or v}


class Spent(_Document):
    """What a record cost: model passes counted in images, and seconds on the clock."""

    forwards: Annotated[int, Field(ge=0)]
    backwards: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _places(asked: list[int]) -> set[int]:
    """The images that were asked; ValueError unless they are distinct places of a test part, at least one."""
    found = set(asked)
    if not found or len(found) != len(asked) or min(found) < 0 or max(found) >= PLACES:
        raise ValueError(f"asked must be distinct places of images from 0 to {PLACES:,}, at least one")
    return found


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
    paper: str = ""  # of the attack, as its plugin names it
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
        asked, fell = _places(self.asked), set(self.fell)
        if not fell <= asked or len(fell) != len(self.fell):
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
    first: Images = 0  # of the test images; 0 is all
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
    n: Images  # of the first test images


class VerificationRecord(_Document):
    """That a record's claim was recounted, and held.  `key` is that of the record's cell, in whose folder it lies."""

    schema_: Literal["rampart/verification-1"] = Field("rampart/verification-1", alias="schema")
    key: Hash
    record: Hash  # of the record's file
    images: int  # that were recounted: the fallen ones, and of clean all that were asked
    forwards: int  # which that took
    by: str  # who says so, in their own words; may be empty
    machine: Machine
    versions: dict[str, str]
    commit: str
    made: str


class TableColumn(_Document):
    """What a column of a published table is here."""

    said: str  # the column's name in the paper
    attacks: list[str]  # recipe keys
    strict: bool
    first: Annotated[int, Field(ge=0)] = 0  # of the test images; 0 is all
    condition: str


class TableCard(_Document):
    """Which training and which cells answer a row of a published table.  `key` is the hash of the rest."""

    schema_: Literal["rampart/table-1"] = Field("rampart/table-1", alias="schema")
    key: Hash
    paper: str
    table: str
    row: str  # data set/net/name in that table
    variant: str  # of the row's recipe; empty is what the paper describes
    training: Hash  # its key
    which: Literal["best", "last"]
    test: Hash
    threat: str
    columns: list[TableColumn]


class ReportedModel(_Document):
    """A model on a board elsewhere; accuracies are percentages, as they are written there."""

    name: str
    dataset: str
    threat: str
    eps: str
    clean: Percent
    autoattack: Percent | None
    worse: Percent | None  # under attacks that were found to do better
    corruptions: Percent | None
    claimed: Percent | None
    doubted: bool
    architecture: str
    extra_data: bool
    paper: str
    link: str
    venue: str
    weights: bool
    licence: str
    recipe: str | None  # that pulls it


class ReportedCard(_Document):
    """What a board elsewhere says of published models.  `key` is the hash of the rest but `made`."""

    schema_: Literal["rampart/reported-1"] = Field("rampart/reported-1", alias="schema")
    key: Hash
    board: str  # its name
    models: list[ReportedModel]  # in its order
    made: str  # when it was written down here; UTC, ISO 8601


class Doubted(_Document):
    """A reason to distrust a model, with its evidence."""

    code: str
    text: str
    images: list[int]  # places in the test part where it shows
    figures: dict[str, float]
    what: str  # names of modules or tensors; empty where it is about none


class CheckRecord(_Document):
    """What checks said of weights on a test part: those before any attack, or under a threat the thorough ones.

    `key` is the hash of what was checked.
    """

    schema_: Literal["rampart/check-1"] = Field("rampart/check-1", alias="schema")
    key: Hash
    net: str
    weights: Hash
    dataset: str  # the name, for people
    test: Hash
    threat: str | None = None  # of the thorough checks, which attack; None of the checks before any attack
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
        if self.key != check_key(self.net, self.weights, self.test, self.version, self.threat):
            raise ValueError("the key is not that of its check: a field was changed")
        return self


def as_levels(threat: str) -> str:
    """A threat as papers write it: l2:16/51 is l2:80/255."""
    norm, _, eps = threat.partition(":")
    above, _, below = eps.partition("/")
    if not (above.isdecimal() and below.isdecimal() and int(below) and 255 % int(below) == 0):
        return threat
    return f"{norm}:{int(above) * 255 // int(below)}/255"


class PictureModel(_Document):
    """A model that a picture shows."""

    label: str  # the defense as a person would write it
    threat: str  # that it was trained for; empty where there is none
    seed: int
    which: str  # of its training's weights
    net: str
    weights: Hash

    @property
    def short(self) -> str:
        """Few words for the head of a column: the defense's name and the threat."""
        return f"{self.label.partition('(')[0]} {as_levels(self.threat)}".strip()


class Picture(_Document):
    """What a picture shows: models, test images, and numbers; its arrays lie beside it.  `key` names what was asked."""

    schema_: Literal["rampart/picture-1"] = Field("rampart/picture-1", alias="schema")
    key: Hash
    kind: str
    version: int  # of the kind: what it computes
    models: list[PictureModel]
    dataset: str  # the name, for people
    test: Hash
    images: list[Annotated[int, Field(ge=0)]]  # places in the test part that are shown
    settings: dict[str, str | int | float | bool | list[str] | list[int] | list[float]]
    heads: list[str]  # of the table of numbers
    rows: list[list[str | int | Number | None]]
    arrays: Hash  # the sidecar beside this file
    machine: Machine
    versions: dict[str, str]
    commit: str
    made: str

    @model_validator(mode="after")
    def _whole(self) -> Picture:
        models = [(m.net, m.weights) for m in self.models]
        if self.key != picture_key(self.kind, self.version, models, self.test, self.images, self.settings):
            raise ValueError("the key is not that of its picture: a field was changed")
        if any(len(row) != len(self.heads) for row in self.rows):
            raise ValueError("each row of numbers must have a value for each head")
        return self


def picture_key(
    kind: str, version: int, models: list[tuple[str, str]], test: str, images: list[int], settings: Mapping[str, Any]
) -> str:
    """The name of a picture in the ledger; models: net and weights of each."""
    facts = {
        "kind": kind, "version": version, "models": [list(m) for m in models], "test": test, "images": images,
        "settings": dict(settings),
    }  # fmt: skip
    return digest({"picture": facts})


def check_key(net: str, weights: str, test: str, version: int, threat: str | None = None) -> str:
    """The name of a check in the ledger."""
    under = {"threat": threat} if threat else {}
    return digest({"check": {"net": net, "weights": weights, "test": test, "version": version, **under}})


class CertificateRecord(_Document):
    """Which images no attack within a threat can fell, by a proof.  `key` is the hash of what was to be proven."""

    schema_: Literal["rampart/certificate-1"] = Field("rampart/certificate-1", alias="schema")
    key: Hash
    net: str
    weights: Hash
    dataset: str  # the name, for people
    test: Hash
    condition: str
    threat: str
    method: str  # by which it is proven: ibp
    version: int  # of the method
    asked: list[int]  # places in the test part
    certified: list[int]  # of these, the images whose every neighbour is read right
    without: str  # why there is no bound; empty where there is one
    cost: Spent
    machine: Machine
    versions: dict[str, str]
    commit: str
    made: str

    @model_validator(mode="after")
    def _whole(self) -> CertificateRecord:
        asked, held = _places(self.asked), set(self.certified)
        if not held <= asked or len(held) != len(self.certified) or (held and self.without):
            raise ValueError("certified must be distinct places of images that were asked, none where nothing bounds")
        wanted = (self.net, self.weights, self.test, self.condition, self.threat, self.method, self.version)
        if self.key != certificate_key(*wanted):
            raise ValueError("the key is not that of its certificate: a field was changed")
        return self


def certificate_key(
    net: str, weights: str, test: str, condition: str, threat: str, method: str, version: int
) -> str:  # fmt: skip
    """The name of a certificate in the ledger."""
    facts = {"net": net, "weights": weights, "test": test, "condition": condition, "threat": threat}
    return digest({"certificate": facts | {"method": method, "version": version}})


Document = (
    Record
    | TrainingRecord
    | DatasetCard
    | ColumnCard
    | ExamCard
    | VerificationRecord
    | TableCard
    | ReportedCard
    | CheckRecord
    | Picture
    | CertificateRecord
)
_ANY: TypeAdapter[Document] = TypeAdapter(Annotated[Document, Field(discriminator="schema_")])


def read_document(text: str | bytes) -> Document:
    """A document from its JSON; ValueError says what is wrong with it."""
    return _ANY.validate_json(text)


def of_other_version(error: ValueError) -> bool:
    """Whether a text is no document here only since its schema, or fields of it, are not known to this version."""
    wrong = error.errors() if isinstance(error, ValidationError) else []
    newer = [e["type"] == "union_tag_invalid" and str(e["ctx"]["tag"]).startswith("rampart/") for e in wrong]
    return bool(wrong) and (any(newer) or all(e["type"] == "extra_forbidden" for e in wrong))


def write_document(document: Document) -> str:
    """A document's JSON: one line, keys in the order above."""
    return document.model_dump_json(by_alias=True) + "\n"
