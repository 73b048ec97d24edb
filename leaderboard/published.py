"""Published tables: their numbers as facts, and the recipes, columns and seeds that repeat them here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench import UsageError, nearest

_FOLDER = Path(__file__).parent / "papers"


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Quoted(NamedTuple):
    """A number as it is printed, in percent, and its deviation where there is one."""

    mean: float
    sd: float | None


class Asked(_Fact):
    """What a column of the published table is here."""

    column: str
    condition: str = "clean"


class PaperRow(_Fact):
    """A row of a published table."""

    name: str  # of one part of the table
    defense: str
    said: dict[str, str | int | float]  # what else the paper says of the row
    recipes: dict[str, str]  # by variant; the one without a name is what the paper describes
    needs_extra: bool = False  # images that are not part of the project
    numbers: dict[str, Quoted]  # by the paper's column

    def recipe(self, variant: str = "", extra: str = "") -> str:
        """The recipe of a variant, or of the paper's own where there is none, with the file of extra images."""
        found = self.recipes.get(variant, self.recipes[""])
        return found.removesuffix(")") + f", extra={extra!r})" if self.needs_extra and extra else found


class PaperPart(_Fact):
    """The rows of a table that share data set, net, threat and columns: one exam."""

    dataset: str
    net: str
    threat: str
    suite: str
    columns: dict[str, Asked]  # by the paper's column
    rows: list[PaperRow]

    @model_validator(mode="after")
    def _fits(self) -> PaperPart:
        if len({row.name for row in self.rows}) < len(self.rows):
            raise ValueError("two rows of a part have one name")
        for row in self.rows:
            if not row.numbers.keys() <= self.columns.keys():
                raise ValueError(f"row {row.name} has numbers of columns that are not there")
            if "" not in row.recipes:
                raise ValueError(f"row {row.name} has no recipe without a name, which is the paper's own")
        return self


class PaperTable(_Fact):
    """A published table."""

    name: str
    about: str
    runs: int  # behind each mean and deviation
    weights: list[Literal["best", "last"]]  # that are examined
    notes: list[str] = []
    parts: list[PaperPart]

    def rows(self) -> Iterator[tuple[PaperPart, PaperRow]]:
        """Every row, with its part."""
        for part in self.parts:
            for row in part.rows:
                yield part, row

    def datasets(self) -> list[str]:
        """The data sets of its parts."""
        return list(dict.fromkeys(part.dataset for part in self.parts))


class Paper(_Fact):
    """A paper and its tables."""

    schema_: Literal["rampart/paper-1"] = Field(alias="schema")
    name: str
    title: str
    authors: list[str]
    arxiv: str = ""
    venue: str
    year: int
    out_of_scope: dict[str, str] = {}  # methods that its tables compare with and that are not here, and why
    tables: list[PaperTable]

    def table(self, name: str) -> PaperTable:
        """A table by name; an error says which there are."""
        for table in self.tables:
            if table.name == name:
                return table
        names = [table.name for table in self.tables]
        raise UsageError(f"{self.name} has no table {name!r} here; there is {', '.join(names)}{nearest(name, names)}")


def names() -> list[str]:
    """The papers whose tables are here."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def paper(name: str) -> Paper:
    """A paper by name, or by the path of a file like those in leaderboard/papers."""
    if name in names():
        return _read(_FOLDER / f"{name}.json")
    path = Path(name)
    if path.suffix == ".json" and path.is_file():
        found = _read(path)
        if found.name in names():
            raise UsageError(
                f"{path}: the name {found.name!r} is that of a paper whose tables are here; choose another"
            )
        return found
    raise UsageError(
        f"there is no paper {name!r}; expected {', '.join(names())}{nearest(name, names())}, or a .json like theirs"
    )


def papers() -> list[Paper]:
    """Every paper whose tables are here, by name."""
    return [paper(name) for name in names()]


def _read(path: Path) -> Paper:
    try:
        return Paper.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(f"{path} is no table that this version reads: {error}") from None


def plain(value: _Fact) -> dict[str, Any]:
    """A fact as plain values, for json.dumps."""
    return value.model_dump(by_alias=True)
