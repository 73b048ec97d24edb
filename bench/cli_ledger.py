"""bench ledger: look after the records."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.errors import UsageError
from bench.options import Command, Files, Number, json_option, ledger_option, option, store_option

if TYPE_CHECKING:
    from bench.ledger import Ledger
    from bench.ledger_check import Finding

MOST = 50  # rows or findings that a person is shown; the JSON has all
EVERY = 5.0  # seconds between lines of progress
NAMES = {"dataset": "data set"}  # of kinds that are not called as their schema is


@click.group()
def ledger() -> None:
    """Look after the records: list, check, merge, clean up, export."""


@ledger.command(cls=Command)
@click.option("--dataset", "of_dataset", default="", help="only cells of this data set")
@click.option("--defense", "of_defense", default="", help="only of this defense: at, or 'trades(beta=3.0)'")
@click.option("--weights", "of_weights", default="", metavar="HASH", help="only of weights whose hash begins so")
@click.option("--condition", "of_condition", default="", help="only under this condition: clean, fog:3")
@click.option(
    "--threat", "of_threat", default="", metavar="NORM[:EPS]", help="only under this threat, or all of a norm"
)
@click.option("--attack", "of_attack", default="", help="only of this attack")
@click.option("--limit", type=click.IntRange(min=0), default=MOST, show_default=True, help="rows shown; 0: all")
@ledger_option
@json_option
def ls(ledger: str, limit: int, as_json: bool, **wanted: str) -> None:
    """What is in a ledger: a row a cell.

    Files are read and not checked (bench ledger verify does that).  `fell` of an attack that finds the least distance
    counts all that it found, at any distance.
    """
    from bench.ledger_list import contents, table
    from bench.report import print_rich

    found = contents(Path(ledger), {name.removeprefix("of_"): word for name, word in wanted.items()})
    if as_json:
        _print({
            "schema": "rampart/ledger-ls-1", "documents": found.documents, "unreadable": list(found.unreadable),
            "cells": [asdict(row) for row in found.rows],
        })  # fmt: skip
    shown = found.rows[: limit or None]
    if shown:
        print_rich(table(shown))
    if left := len(found.rows) - len(shown):
        _say(f"… and {left:,} more cells: --limit 0 shows all, and --json has all.")
    _say(f"{len(found.rows):,} cells. In all: {_counted(found.documents)}.")
    for path in found.unreadable[:MOST]:
        _say(f"cannot be read: {path}")


@ledger.command(cls=Command)
@ledger_option
@click.option("--tensors", is_flag=True, help="also the weights and bundles in --store that records name")
@store_option
@json_option
def verify(ledger: str, tensors: bool, store: str, as_json: bool) -> None:
    """Is the ledger whole?  Looks at every file.

    Each file has the hash that it is named by, lies in its cell's folder, and reads; sidecars have a value an image;
    the cards that records need are there.  The exit code is 5 where something is damaged, 4 where something is only
    missing or of another version.  Foreign and temporary files are named.
    """
    from bench.ledger_check import check
    from bench.store import Store

    if tensors:
        _folder(store, "--store")
    found = check(_ledger(ledger), Store(Path(store)) if tensors else None, _progress("{:,} documents are checked"))
    if as_json:
        _print({
            "schema": "rampart/ledger-verify-1", "documents": _kinds(found.documents), "sidecars": found.sidecars,
            "findings": [asdict(f) for f in found.findings], "exit_code": found.exit_code,
        })  # fmt: skip
    _show(found.findings)
    verdict = {0: "The ledger is whole", 4: "Nothing is damaged, but something is missing", 5: "Something is damaged"}
    _say(f"{verdict[found.exit_code]}: {_counted(_kinds(found.documents))}, {found.sidecars:,} sidecars.")
    sys.exit(found.exit_code)


@ledger.command(cls=Command)
@click.argument("sources", nargs=-1, required=True, metavar="SRC…")
@ledger_option
@click.option("--from-store", multiple=True, metavar="DIR",
              help="copy weights and bundles that records name from here to --store; may be repeated")  # fmt: skip
@store_option
@json_option
def merge(sources: tuple[str, ...], ledger: str, from_store: tuple[str, ...], store: str, as_json: bool) -> None:
    r"""Copy the records of other ledgers here.

    \b
    bench ledger merge other/ledger --ledger results/ledger
    bench ledger merge other/ledger --from-store other/store

    Each file is checked before it is copied, and none is overwritten; what is refused is named (exit code 5 where it
    is damaged, 4 where something is missing), and the rest goes on.  git merge and rsync do the same, unchecked.
    """
    from bench.ledger import Ledger
    from bench.ledger_merge import merge as merge_ledgers
    from bench.ledger_merge import merge_store
    from bench.store import Store

    into = Ledger(Path(ledger))
    done = merge_ledgers([Path(source) for source in sources], into, _progress("{}"))
    if from_store:
        merge_store([Store(Path(folder)) for folder in from_store], into, Store(Path(store)), done)
    if as_json:
        _print({
            "schema": "rampart/ledger-merge-1", "came": dict(done.came), "there": done.there, "foreign": done.foreign,
            "refused": [asdict(f) for f in done.refused],
            "conflicts": [{**c._asdict(), "said": str(c)} for c in done.conflicts], "exit_code": done.exit_code,
        })  # fmt: skip
    for conflict in done.conflicts[:MOST]:
        _say(str(conflict))
    _show(done.refused)
    foreign = f", {done.foreign:,} foreign files left aside" if done.foreign else ""
    came = _counted(done.came) if done.came else "nothing new"
    _say(f"Came: {came}. There already: {done.there:,} documents{foreign}.")
    sys.exit(done.exit_code)


@ledger.command(cls=Command)
@option("--ledger", "ledgers", multiple=True, type=Files(), metavar="DIR",
        help="every ledger that uses the store; may be repeated  [default: results/ledger]")  # fmt: skip
@store_option
@option("--days", type=Number(0.0, 1e6, ends=True), default=7.0, show_default=True, help="how old it must be")
@click.option("--delete", is_flag=True, help="remove it; else it is only listed")
@json_option
@click.pass_context
def gc(ctx: click.Context, ledgers: tuple[str, ...], store: str, days: float, delete: bool, as_json: bool) -> None:
    """What nobody refers to: weights, bundles, sidecars, scratch folders, locks, temporary files.

    What any document names stays, and what a living process holds.  Name every ledger that uses the store: what is
    named by none of them counts as waste.  With --days 0 nothing else may run meanwhile.
    """
    from bench.ledger_gc import gc as collect
    from bench.store import Store

    usual = (ctx.default_map or {}).get("ledger", "results/ledger")
    found = collect([_ledger(folder) for folder in ledgers or (usual,)], Store(Path(store)), days, delete=delete)
    if as_json:
        _print({"schema": "rampart/ledger-gc-1", "deleted": delete, "waste": [asdict(w) for w in found]})
    counts: Counter[str] = Counter(w.kind for w in found)
    for kind, count in counts.items():
        mine = [w for w in found if w.kind == kind]
        some = "".join(f"\n    {w.path}" for w in mine[:3]) + ("\n    …" if count > 3 else "")
        _say(f"{count:,} x {kind}, {_bytes(sum(w.size for w in mine))}{some}")
    done = "removed" if delete else "to be removed; --delete does it" if found else "to be removed"
    _say(f"{len(found):,} things, {_bytes(sum(w.size for w in found))} {done}.")


@ledger.command(cls=Command)
@click.argument("file")
@click.option("--images", is_flag=True, help="a row an image of each record, with its margin, distance and passes")
@ledger_option
@json_option
def export(file: str, images: bool, ledger: str, as_json: bool) -> None:
    """The records as one table: FILE.csv, FILE.json or FILE.parquet (needs the extra `parquet`), a row a record."""
    from bench.ledger_export import export as write

    rows = write(_ledger(ledger), Path(file), images=images)
    if as_json:
        _print({"schema": "rampart/ledger-export-1", "file": file, "rows": rows})
    _say(f"{file}: {rows:,} rows, {_bytes(Path(file).stat().st_size)}.")


def _ledger(folder: str) -> Ledger:
    from bench.ledger import Ledger

    _folder(folder, "--ledger")
    return Ledger(Path(folder))


def _folder(folder: str, name: str) -> None:
    if not Path(folder).is_dir():
        raise UsageError(f"{name} {folder}: there is no such folder; bench run makes one")


def _kinds(schemas: dict[str, int]) -> dict[str, int]:
    """Documents by kind, from their schemas."""
    return {schema.removeprefix("rampart/").rpartition("-")[0]: count for schema, count in schemas.items()}


def _counted(kinds: dict[str, int]) -> str:
    words = (f"{count:,} {NAMES.get(kind, kind)}{'s' * (count != 1)}" for kind, count in sorted(kinds.items()))
    return ", ".join(words) or "no document"


def _show(findings: Sequence[Finding]) -> None:
    """The findings, the worst first."""
    order = ("damaged", "missing", "unknown", "note")
    for state in order:
        mine = [f for f in findings if f.state == state]
        for finding in mine if state == "damaged" else mine[:MOST]:
            _say(f"{state}: {finding}")
        if state != "damaged" and len(mine) > MOST:
            _say(f"{state}: … and {len(mine) - MOST:,} more; --json has all")


def _progress(words: str) -> Callable[[Any], None]:
    """A line every few seconds."""
    last = time.monotonic()

    def report(value: object) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            _say(words.format(value))

    return report


def _bytes(count: int) -> str:
    """A size as a person says it."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _print(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def _say(text: str) -> None:
    """Say it, names of files that are no text too."""
    sys.stderr.write(text.encode(errors="backslashreplace").decode() + "\n")
