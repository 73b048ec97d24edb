"""What is in a ledger: a row a cell, from documents that are read and not checked, so that many are quick."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import UsageError, nearest
from bench.ledger_check import is_hash

if TYPE_CHECKING:
    from rich.table import Table

WORDS = ("dataset", "defense", "weights", "condition", "threat", "attack")  # what rows are chosen by
SHOWN = 8  # of a hash


@dataclass(frozen=True)
class Row:
    """A cell, with all of its records."""

    dataset: str
    net: str
    defense: str  # as a person would write it, with its seed; empty where no training is known
    weights: str
    condition: str
    threat: str | None
    attack: str  # recipe key
    seed: int
    precision: str
    asked: int  # images
    fell: int
    records: int
    made: str  # the last of them
    key: str


@dataclass(frozen=True)
class Contents:
    """The rows that were chosen, and how many documents of each kind there are in all."""

    rows: tuple[Row, ...]
    documents: dict[str, int]
    unreadable: tuple[str, ...]


def contents(root: Path, wanted: Mapping[str, str]) -> Contents:
    """The cells of a ledger of which these words are true."""
    kinds: Counter[str] = Counter()
    makers: dict[str, str] = {}
    cells: dict[str, list[dict[str, Any]]] = {}
    unreadable: list[str] = []
    for path in _documents(root):
        try:
            with open(path, "rb") as file:
                d = json.load(file)
            kinds[kind := d["schema"].removeprefix("rampart/").rpartition("-")[0]] += 1
            if kind == "record":
                facts = _facts(d)
                cells.setdefault(str(d["key"]), []).append(facts)
            elif kind == "training":
                for which, weights in d["weights"].items():
                    makers.setdefault(weights, f"{d['label']} seed {d['seed']}" + f" {which}" * (which != "best"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            unreadable.append(path)
    rows = [_row(key, found, makers) for key, found in cells.items()]
    rows.sort(key=lambda r: (r.dataset, r.defense, r.weights, r.condition, r.threat or "", r.attack, r.seed))
    return Contents(tuple(chosen(rows, wanted)), dict(kinds), tuple(unreadable))


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a row needs of a record, whatever was written there."""
    texts = ("dataset", "net", "weights", "condition", "attack", "precision", "made")
    facts: dict[str, Any] = {name: str(record[name]) for name in texts}
    threat = None if record["threat"] is None else str(record["threat"])
    sets = {name: set(map(int, record[name])) for name in ("asked", "fell")}
    return facts | sets | {"threat": threat, "seed": int(record["seed"])}


def _documents(root: Path) -> Iterator[str]:
    """The paths of all documents; a fraction of the time that globbing takes."""
    try:
        names = sorted(e.name for e in os.scandir(root) if is_hash(e.name))
    except OSError as error:
        raise UsageError(f"--ledger {root}: {error.strerror}; bench run makes one") from None
    for name in names:
        folder = os.path.join(root, name)
        for entry in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            stem, ending = os.path.splitext(entry)
            if ending == ".json" and is_hash(stem):
                yield os.path.join(folder, entry)


def _row(key: str, records: Sequence[dict[str, Any]], makers: Mapping[str, str]) -> Row:
    one = records[0]
    named = {k: one[k] for k in ("dataset", "net", "weights", "condition", "threat", "attack", "seed", "precision")}
    asked, fell = (set().union(*(r[what] for r in records)) for what in ("asked", "fell"))
    return Row(
        **named, defense=makers.get(one["weights"], ""), asked=len(asked), fell=len(fell), records=len(records),
        made=max(r["made"] for r in records), key=key,
    )  # fmt: skip


def chosen(rows: Sequence[Row], wanted: Mapping[str, str]) -> list[Row]:
    """The rows of which every word is true; a word that is true of no row at all is an error that names the nearest."""
    for name, word in wanted.items():
        if word and rows and not any(_is(row, name, word) for row in rows):
            known = {str(getattr(row, name)) for row in rows if getattr(row, name)}
            known = {k.partition("@")[0] for k in known} if name == "attack" else known
            short = {k[: max(SHOWN, len(word))] for k in known} if name == "weights" else known
            raise UsageError(f"--{name} {word}: no record is of it{nearest(word, short)}")
    return [row for row in rows if all(_is(row, name, word) for name, word in wanted.items() if word)]


def _is(row: Row, name: str, word: str) -> bool:
    """Whether a word is true: hashes by how they begin, attacks by their name, threats by their norm too."""
    value = str(getattr(row, name) or "")
    if name == "weights":
        return value.startswith(word.lower())
    if name in {"attack", "condition"}:
        return word in {value, value.partition("@")[0]} or ("(" in word and word in value)
    if name == "threat":
        return word in {value, value.partition(":")[0]} or _same_threat(value, word)
    if name == "defense":
        return word == value or value.startswith((f"{word} ", f"{word}("))
    return word == value


def _same_threat(one: str, two: str) -> bool:
    """Equal sizes that are written otherwise: linf:8/255 and linf:0.03137… are not, l2:0.5 and l2:0.50 are."""
    from bench.threat import ThreatModel

    if ":" not in one:
        return False
    try:
        return ThreatModel.parse(one) == ThreatModel.parse(two)
    except UsageError:
        return False


HEADS = ("data set", "net", "defense", "condition", "threat", "attack", "asked", "fell", "precision", "made")


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    wide = {"data set": 12, "defense": 20, "attack": 16}
    for head in HEADS:
        side: Literal["left", "right"] = "right" if head in {"asked", "fell"} else "left"
        whole = head in {"asked", "fell", "precision", "made"}
        drawn.add_column(head, justify=side, no_wrap=whole, overflow="fold", min_width=wide.get(head))
    attacks, nets = short_names(row.attack for row in rows), short_names(row.net for row in rows)
    for r in rows:
        cells = (
            r.dataset, nets[r.net], f"{r.defense} {r.weights[:SHOWN]}".strip(), r.condition.replace("@1()", ""),
            r.threat or "", attacks[r.attack], f"{r.asked:,}", f"{r.fell:,}", r.precision,
            r.made[:16].replace("T", " "),
        )  # fmt: skip
        drawn.add_row(*(Text(_printable(cell)) for cell in cells))
    return drawn


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """How to call recipes here: by their name, with the settings in which those of one name differ."""
    from bench.registry import split_recipe

    alike: dict[str, dict[str, dict[str, Any]]] = {}
    for key in dict.fromkeys(keys):
        try:
            name, version, settings = split_recipe(key)
        except UsageError:  # of a version that wrote recipes otherwise
            name, version, settings = key, None, {}
        alike.setdefault(name, {})[key] = {"@": version, **settings}
    found: dict[str, str] = {}
    for name, recipes in alike.items():
        differ = [k for k in _all_of(recipes.values()) if len({repr(s.get(k)) for s in recipes.values()}) > 1]
        for key, settings in recipes.items():
            inner = ", ".join(f"{k}={settings[k]!r}" for k in differ if k in settings and k != "@")
            at = f"@{settings['@']}" if "@" in differ else ""
            found[key] = f"{name}{at}" + (f"({inner})" if inner else "")
    return found


def _all_of(settings: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for one in settings for name in one))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
