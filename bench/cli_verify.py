"""The commands that check what others claim: verify, audit, bundle."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli_exam import place_of
from bench.console import print_json, prints_aside, say
from bench.errors import RampartError, UsageError
from bench.options import (
    Command,
    Number,
    Recipes,
    data_option,
    json_option,
    ledger_option,
    option,
    plugin_option,
    store_option,
)

if TYPE_CHECKING:
    from bench.audit import Audit
    from bench.place import Place
    from bench.verify import Checked

AUDITORS = ("apgd-ce(restarts=5)", "apgd-t(steps=300)")  # stronger than AutoAttack's own by passes, and draw anew
SHOWN = 50  # records that a person is told of; JSON has all


def _where(command: Any) -> Any:
    """The options that say where things lie, and which data sets to look at."""
    for add in (
        json_option, plugin_option, data_option, store_option, ledger_option,
        option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1"),
        option("--dataset", "datasets", multiple=True, type=Recipes(), metavar="RECIPE",
               help="the images, where a record's own name does not find them (npz(file='mine.npz')); several times"),
    ):  # fmt: skip
        command = add(command)
    return command


@click.command(cls=Command)
@click.argument("x", required=False, default="")
@option(
    "--attest/--no-attest", default=True, show_default=True, help="write into the ledger what was recounted and held"
)
@option("--by", default="", metavar="TEXT", help="who says so; goes into what --attest writes")
@_where
def verify(x: str, *, attest: bool, by: str, as_json: bool, **options: Any) -> None:
    """Recount the claims of records from their bundles: one forward pass an image.

    X is a ledger's folder (default: --ledger), a file that bench bundle pack wrote, or the beginning of a cell's key
    or of a record's name.  Weights and bundles come from the store.

    The exit code is 0 where all was recounted and holds, 4 where something that is needed is missing, and 5 where
    something is not what a record claims; each such image is named.
    """
    from bench import verify as verification
    from bench.report import reporter

    started = time.perf_counter()
    with prints_aside(), tempfile.TemporaryDirectory() as folder, reporter() as report:
        place, prefix, packed = _named(x, options, Path(folder))
        answers = verification.verify(
            place, verification.Datasets(place, options["datasets"]), prefix=prefix,
            tell=lambda done, of, one: report.line(f"{done:,} of {of:,} records; {one}"),
        )  # fmt: skip
        new, unwritten = 0, None
        try:
            for held in (c for c in answers if attest and not packed and c.holds):
                new += verification.attest(place, held, by)
        except RampartError as error:  # what was found is said all the same
            unwritten = error
    if not answers:
        raise UsageError(f"there are no records in {x or options['ledger']}; bench run makes some")
    seconds = time.perf_counter() - started
    if as_json:
        print_json(_document(answers, seconds, new))
    _say_answers(answers, seconds)
    if unwritten and not any(c.faults for c in answers):
        raise unwritten
    sys.exit(5 if any(c.faults for c in answers) else 4 if any(c.missing for c in answers) else 0)


@click.command(cls=Command)
@click.argument("x", required=False, default="")
@option(
    "--images", type=click.IntRange(min=1), default=100, show_default=True, help="survivors that are attacked again"
)
@option("--beacon", required=True, metavar="TEXT", help="a text that nobody knew when the records were made")
@option("--column", default="", metavar="NAME", help="whose survivors; needed where there are several")
@option(
    "--model",
    default="",
    metavar="TEXT",
    help="a model's or a defense's name, a part of it, or the beginning of its weights' hash; default: all",
)
@option("--attack", "attacks", multiple=True, type=Recipes(), metavar="RECIPE…", default=AUDITORS, show_default=True,
        help="what they are attacked with, one after the other")  # fmt: skip
@option("--alpha", type=Number(0.0, 0.5), default=0.05, show_default=True, help="how often the bound may err")
@_where
def audit(
    x: str, *, images: int, beacon: str, column: str, model: str, attacks: tuple[str, ...], alpha: float,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Attack survivors again, chosen by a hash, and bound what the column's attacks missed.

    X is a ledger's folder (default: --ledger).  The same beacon chooses the same images everywhere; the draws of the
    attacks come from it too.  What the audit finds is kept in the ledger, as records of its own.
    """
    from bench import audit as auditing
    from bench.report import reporter
    from bench.verify import Datasets

    if not beacon.strip():
        raise UsageError("--beacon is empty; give a text that nobody knew when the records were made")
    with prints_aside(), tempfile.TemporaryDirectory() as folder, reporter() as report:
        place, prefix, packed = _named(x, options, Path(folder))
        if prefix or packed:
            raise UsageError(f"{x}: expected a ledger's folder, where the audit's records go")
        standings = auditing.audited(place.ledger, column, model)
        recipes = [auditing.parsed(place, attacks, str(s.question.threat)) for s in standings]
        datasets = Datasets(place, options["datasets"])
        done = [
            auditing.audit(s, place, datasets, mine, count=images, beacon=beacon, alpha=alpha, report=report.line)
            for s, mine in zip(standings, recipes, strict=True)
        ]
    if as_json:
        print_json({"schema": "rampart/audit-1", "beacon": beacon, "audits": [_audit(a) for a in done]})
    for a in done:
        say(_sentence(a))


def _audit(a: Audit) -> dict[str, Any]:
    """One audit, for programs."""
    s = a.standing
    return {
        "model": str(s.model), "weights": s.weights, "dataset": s.dataset, "column": s.column,
        "threat": s.question.threat, "condition": s.question.condition, "n": s.n, "survivors": a.survivors,
        "images": list(a.chosen), "fell": list(a.fell), "attacks": list(a.attacks), "seed": a.seed, "alpha": a.alpha,
        "most": a.most, "claimed": a.claimed, "least": a.least, "cells": list(a.records),
    }  # fmt: skip


def _sentence(a: Audit) -> str:
    """One audit, for a person."""
    if not a.chosen:
        return f"{a.standing}: no image stands, and there is nothing to audit."
    named = f" ({', '.join(map(str, a.fell))})" if a.fell else ""
    sure = f"with {100 * (1 - a.alpha):g} % confidence" if len(a.chosen) < a.survivors else "all were attacked:"
    return (
        f"{a.standing}: {len(a.fell)} of {len(a.chosen)} survivors that were chosen fell{named}; {sure} these attacks "
        f"take at most {100 * a.most:.2f} % of its {a.survivors:,} survivors: {100 * a.claimed:.2f} % is claimed, and "
        f"{100 * a.least:.2f} % or more stands against them."
    )


@click.group()
def bundle() -> None:
    """Records and the images that prove them, as one file to carry along."""


@bundle.command(cls=Command)
@click.argument("file")
@option("--record", "prefixes", multiple=True, metavar="KEY", help="only records whose cell's key or name begins so")
@option("--weights/--no-weights", default=True, show_default=True, help="the weights too")
@ledger_option
@store_option
@json_option
def pack(file: str, *, prefixes: tuple[str, ...], weights: bool, ledger: str, store: str, as_json: bool) -> None:
    """Write records, what they need, and their bundles into FILE, an uncompressed tar; equal content is equal bytes."""
    from bench import packing
    from bench.ledger import Ledger
    from bench.store import Store

    done = packing.pack(Ledger(_folder(ledger)), Store(Path(store)), Path(file), prefixes, weights=weights)
    if as_json:
        print_json({"schema": "rampart/bundle-1", "file": file, **done})
    say(f"{file}: {done['records']:,} records, {done['files']:,} files, {done['bytes'] / 1e6:,.1f} MB. "
        f"To check it elsewhere: bench verify {file}")  # fmt: skip


@bundle.command(cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@ledger_option
@store_option
@json_option
def unpack(file: str, *, ledger: str, store: str, as_json: bool) -> None:
    """Take what FILE holds into the ledger and the store; nothing of it where anything in it is not as it should be."""
    from bench import packing
    from bench.ledger import Ledger
    from bench.store import Store

    done = packing.unpack(Path(file), Ledger(Path(ledger)), Store(Path(store)))
    if as_json:
        print_json({"schema": "rampart/bundle-1", "file": file, **done})
    say(f"{file}: {done['records']:,} records, {done['files']:,} files; {done['new']:,} of them were new here.")


def _folder(ledger: str) -> Path:
    if not Path(ledger).is_dir():
        raise UsageError(f"--ledger {ledger}: there is no such folder; bench run makes one")
    return Path(ledger)


def _named(x: str, options: dict[str, Any], folder: Path) -> tuple[Place, str, bool]:
    """The place where X lies, the beginning that it is, and whether it was unpacked from a file into `folder`."""
    from bench import packing
    from bench.ledger import Ledger
    from bench.store import Store

    ledger, store, prefix = Path(options["ledger"]), Path(options["store"]), ""
    packed = Path(x).is_file() if x else False
    if packed:
        ledger, own, store = folder / "ledger", store, folder / "store"
        packing.unpack(Path(x), Ledger(ledger), Store(store))
        packing.lend_weights(Ledger(ledger), Store(own), Store(store))
    elif x and Path(x).is_dir():
        ledger = Path(x)
    elif x:
        if not re.fullmatch("[0-9a-f]{4,64}", x):
            raise UsageError(
                f"{x}: expected a ledger's folder, a file that bench bundle pack wrote, or the first four or more "
                "digits of a record's key"
            )
        prefix = x
    _folder(str(ledger))
    return place_of({**options, "ledger": ledger, "store": store}), prefix, packed


def _document(answers: list[Checked], seconds: float, new: int) -> dict[str, Any]:
    """All of it, for programs."""
    return {
        "schema": "rampart/verify-1", "records": len(answers), "hold": sum(c.holds for c in answers),
        "images": sum(c.images for c in answers), "forwards": sum(c.forwards for c in answers),
        "rounded": sum(c.rounded for c in answers), "hair": sum(c.hair for c in answers), "attested": new,
        "seconds": round(seconds, 3), "cost_seconds": round(_cost(answers), 3),
        "cost_passes": sum(c.record.cost.forwards + c.record.cost.backwards for c in answers if c.record and c.holds),
        "faults": [
            {"record": c.file, "key": c.record and c.record.key, "what": f.what, "images": list(f.images)}
            for c in answers for f in c.faults
        ],
        "missing": [
            {"record": c.file, "key": c.record and c.record.key, "what": c.missing} for c in answers if c.missing
        ],
    }  # fmt: skip


def _cost(answers: list[Checked]) -> float:
    """Seconds in which the records that hold were made."""
    return sum(c.record.cost.seconds for c in answers if c.record and c.holds)


def _say_answers(answers: list[Checked], seconds: float) -> None:
    """All of it, for a person: what is wrong, what is missing, how many hold."""
    bad = [f"{c}: {fault}" for c in answers for fault in c.faults]
    bad += [f"{c}: cannot be told: {c.missing}" for c in answers if c.missing]
    for line in bad[:SHOWN]:
        say(line)
    if len(bad) > SHOWN:
        say(f"and {len(bad) - SHOWN:,} more; --json has all")
    held, images = sum(c.holds for c in answers), sum(c.images for c in answers)
    hair = sum(c.hair for c in answers)
    say(
        f"{held:,} of {len(answers):,} records hold: {images:,} images recounted in {seconds:.1f} s; "
        f"making what holds took {_cost(answers):,.1f} s."
    )
    if hair:
        say(f"{hair:,} images are on the edge, where another machine's last digits decide; they were taken as claimed.")
