"""bench reproduce: the trainings and cells of a published table, planned, run, and set beside the paper's numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli_exam import place_of
from bench.console import print_json, prints_aside, say, stop_if_damaged
from bench.errors import IncompleteError, UsageError, nearest
from bench.options import Command, executor_options, numbers, option, places

if TYPE_CHECKING:
    from bench.place import Place
    from bench.plan import Line, Speed
    from bench.reproduce import TableExam, TableRow
    from bench.request import Exam
    from leaderboard.published import Paper, PaperPart, PaperRow, PaperTable

DAY = 86_400.0  # seconds


@click.command(cls=Command)
@click.argument("paper")
@click.option("--table", default="", metavar="N", help="its table; without it, the tables that there are")
@click.option("--run", "start", is_flag=True, help="start; without it the plan is shown and nothing is written")
@click.option("--rows", default="", metavar="LIST", help="only these rows, by name: at,vir-at")
@click.option("--dataset", "only", default="", metavar="NAME", help="only the rows of this data set")
@click.option("--limit", type=click.IntRange(min=1), metavar="K", help="only the first K of the rows that are left")
@click.option("--seeds", default="", metavar="0,1,2", callback=numbers, help="default: as many as the paper's runs")
@click.option("-n", "--n", type=click.IntRange(min=1), help="the first N test images; default: all")
@click.option("--variant", default="", metavar="NAME", help="of recipes: released is what public code does")
@click.option("--extra", default="", metavar="FILE", help="generated images (.npz), for tables that train on some")
@option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1")
@option("--batch", type=click.IntRange(min=1), help="images an attack holds at once; changes no verdict")
@executor_options
@places
def reproduce(paper: str, table: str, *, start: bool, as_json: bool, **options: Any) -> None:  # fmt: skip
    """A published table: its trainings and cells planned, run, and set beside the paper's numbers.

    \b
    bench reproduce vir                                        the tables that there are
    bench reproduce vir --table 1                              what it takes: GPU-days, and nothing is started
    bench reproduce vir --table 1 --rows at,vir-at --run       start; the same command continues

    PAPER is a name (part, vir), or a .json like those in leaderboard/papers.
    """  # noqa: D301
    from leaderboard.published import paper as find

    with prints_aside():
        found = find(paper)
        if not table:
            listing: dict[str, Any] | None = _tables(found)
        else:
            chosen = found.table(table)
            wanted = _Wanted.of(found, chosen, options)
            listing = None
    if listing is not None:
        _finish(as_json, {"schema": "rampart/papers-1", **listing})
        return
    (_run if start else _plan)(found, chosen, wanted, options, as_json=as_json)


@dataclass(frozen=True)
class _Wanted:
    """The rows that were asked for, as exams, and those that cannot be, with the reason."""

    exams: tuple[TableExam, ...]
    impossible: tuple[tuple[str, str], ...]  # row, reason
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, paper: Paper, table: PaperTable, options: dict[str, Any]) -> _Wanted:
        """Choose by data set, names and limit; a misspelt name is an error that names the nearest."""
        rows = list(_chosen(paper, table, options))
        variants = {name for _, row in table.rows() for name in row.recipes if name}
        if options["variant"] and options["variant"] not in variants:
            known = f"; there is {', '.join(sorted(variants))}" if variants else ": each row has one recipe"
            raise UsageError(f"table {table.name} has no variant {options['variant']!r}{known}")
        impossible = tuple(
            (_named(part, row), "needs --extra FILE: " + str(row.said.get("extra_data", "generated images")))
            for part, row in rows if row.needs_extra and not options["extra"]
        )  # fmt: skip
        possible = [(part, row) for part, row in rows if not row.needs_extra or options["extra"]]
        exams = [
            _exam(paper, table, part, [row for other, row in possible if other is part], options)
            for part in table.parts if any(other is part for other, _ in possible)
        ]  # fmt: skip
        return cls(tuple(exams), impossible, options["seeds"] or tuple(range(table.runs)))


def _chosen(
    paper: Paper, table: PaperTable, options: dict[str, Any]
) -> Iterator[tuple[PaperPart, PaperRow]]:  # fmt: skip
    only, names = options["only"], [name.strip() for name in options["rows"].split(",") if name.strip()]
    if only and only not in table.datasets():
        raise UsageError(f"table {table.name} has no {only!r}; its data sets are {', '.join(table.datasets())}")
    rows = [(part, row) for part, row in table.rows() if only in ("", part.dataset)]
    known = {row.name for _, row in rows} | {_named(part, row) for part, row in rows}
    for name in names:
        if name in paper.out_of_scope:
            raise UsageError(f"{name} cannot be reproduced: {paper.out_of_scope[name]}")
        if name not in known:
            raise UsageError(f"table {table.name} has no row {name!r}{nearest(name, known)}")
    chosen = [(p, row) for p, row in rows if not names or {row.name, _named(p, row)} & set(names)]
    yield from chosen[: options["limit"]]


def _named(part: PaperPart, row: PaperRow) -> str:
    """A row's place in its table, as cards say it."""
    from leaderboard.parity import place

    return place(part, row)


def _exam(
    paper: Paper, table: PaperTable, part: PaperPart, rows: Sequence[PaperRow], options: dict[str, Any]
) -> TableExam:  # fmt: skip
    from bench.reproduce import TableExam, TableRow

    columns = tuple((said, asked.column, asked.condition) for said, asked in part.columns.items())
    asked = tuple(
        TableRow(
            _named(part, row),
            row.recipe(options["variant"], str(Path(options["extra"]).resolve()) if options["extra"] else ""),
        )
        for row in rows
    )
    return TableExam(
        paper.name, table.name, options["variant"], part.dataset, part.net, part.threat, part.suite,
        tuple(table.weights), columns, asked,
    )  # fmt: skip


def _tables(paper: Paper) -> dict[str, Any]:
    """Say which tables a paper has here."""
    from rich.table import Table

    from bench.report import print_rich

    drawn = Table(title=f"{paper.title} ({paper.venue})", title_justify="left", box=None, pad_edge=False)
    for name in ("table", "what", "data sets", "rows", "cells", "seeds"):
        drawn.add_column(name, justify="right" if name in {"rows", "cells", "seeds"} else "left")
    facts = []
    for table in paper.tables:
        rows = [row for _, row in table.rows()]
        fact = {
            "table": table.name, "about": table.about, "datasets": table.datasets(), "rows": len(rows),
            "cells": sum(len(row.numbers) for row in rows), "seeds": table.runs,
        }  # fmt: skip
        facts.append(fact)
        drawn.add_row(*(", ".join(v) if isinstance(v, list) else str(v) for v in fact.values()))
    print_rich(drawn)
    return {"paper": paper.name, "arxiv": paper.arxiv, "tables": facts}


def _plan(paper: Paper, table: PaperTable, wanted: _Wanted, options: dict[str, Any], *, as_json: bool) -> None:
    """What it takes; writes nothing."""
    from bench.report import duration

    with prints_aside():
        place = place_of(options)
        rows, missing = [], dict[str, str]()
        speeds: dict[tuple[str, str], Speed] = {}
        for exam in wanted.exams:
            for row in exam.rows:
                try:
                    rows.append(
                        _planned(exam, row, exam.ask(row, place, wanted.seeds, options["n"] or 0), place, speeds)
                    )
                except IncompleteError as error:
                    missing[row.row] = str(error)
        if rows:
            _draw_plan(paper, table, rows)
    _say_cannot({**dict(wanted.impossible), **missing})
    seconds = sum(row["training_seconds"] + row["attack_seconds"] for row in rows)
    trainings = sum(row["trainings"] for row in rows)
    _finish(as_json, {
        "schema": "rampart/reproduce-plan-1", "paper": paper.name, "table": table.name, "rows": rows,
        "seconds": round(seconds, 3), "cannot": {**dict(wanted.impossible), **missing},
    })  # fmt: skip
    for note in table.notes:
        say(f"Note: {note}")
    if rows:
        days = f", {seconds / DAY:,.1f} days" if seconds > DAY else ""
        say(f"{trainings} trainings and their attacks: up to {duration(seconds)}{days} on one worker of this machine.")
        say("Nothing was started; --run starts it, and --rows, --seeds, -n and --limit run a part.")
    if missing:
        trainings = len(missing) * len(wanted.seeds)
        say(f"{len(missing)} rows more, {trainings} trainings, cannot be planned without their images.")
    if missing or (wanted.impossible and not rows):
        sys.exit(4)


def _planned(
    exam: TableExam, row: TableRow, asked: Exam, place: Place, speeds: dict[tuple[str, str], Speed]
) -> dict[str, Any]:  # fmt: skip
    """What a row takes, as plain values; the speed of a net is measured once a data set."""
    from bench.plan import measure, plan

    for key in asked.nets:
        if (exam.dataset, key) not in speeds:
            speeds[exam.dataset, key] = measure(asked, place)[key]
    lines = plan(asked, place, {key: speeds[exam.dataset, key] for key in asked.nets})
    trained = [line for line in lines if line.what.startswith("train ")]
    attacks = [line for line in lines if not line.what.startswith("train ")]
    return {
        "row": row.row, "recipe": row.recipe, "defense": asked.lessons[0].training.defense,
        "trainings": sum(line.missing > 0 for line in trained), "trained": sum(line.done > 0 for line in trained),
        "training_seconds": _seconds(trained), "images": sum(line.missing for line in attacks),
        "attack_seconds": _seconds(attacks),
    }  # fmt: skip


def _seconds(lines: Sequence[Line]) -> float:
    return round(sum(line.seconds for line in lines), 3)


def _draw_plan(paper: Paper, table: PaperTable, rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from bench.report import duration, print_rich

    title = f"{paper.name}, table {table.name}: {table.about}"
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("row", "recipe"):
        drawn.add_column(name, overflow="fold")
    for name in ("trained", "to train", "training", "images to ask", "attacks"):
        drawn.add_column(name, justify="right")
    for row in rows:
        drawn.add_row(
            Text(row["row"]), Text(row["recipe"]), str(row["trained"]), str(row["trainings"]),
            duration(row["training_seconds"]), f"{row['images']:,}", duration(row["attack_seconds"]),
        )  # fmt: skip
    print_rich(drawn)


def _run(paper: Paper, table: PaperTable, wanted: _Wanted, options: dict[str, Any], *, as_json: bool) -> None:
    """Do what is missing, exam by exam, and set it beside the paper's numbers."""
    from bench.cli_exam import executor_of
    from bench.report import print_rich, reporter
    from bench.reproduce import together
    from bench.run import run
    from leaderboard.parity import Answers, plain
    from leaderboard.parity_text import text
    from leaderboard.site import publish

    trained = asked = 0
    failures: list[Exception] = []
    cannot = dict(wanted.impossible)
    with prints_aside(), reporter() as report:
        place = place_of(options)
        for exam in wanted.exams:
            try:
                each = [(row, exam.ask(row, place, wanted.seeds, options["n"] or 0)) for row in exam.rows]
            except IncompleteError as error:
                cannot |= {row.row: str(error) for row in exam.rows}
                continue
            for row, one in each:
                for card in exam.cards(row, one):
                    place.ledger.add(card)
            whole = together([one for _, one in each])
            executor = executor_of(options, whole, place)
            summary = run(whole, place, executor, report=report.line)
            trained, asked = trained + summary.trained, asked + summary.asked
            failures += summary.failures
        site = publish(place.ledger, Path(options["site"]))
        parity = Answers(site.documents).table(paper, table)
        print_rich(text(parity))
    page = Path(options["site"]) / "index.html"
    _finish(as_json, {
        "schema": "rampart/reproduce-1", "trained": trained, "images_asked": asked, "cannot": cannot,
        "failures": [str(f) for f in failures], "site": str(page), "parity": plain(parity),
    })  # fmt: skip
    _say_cannot(cannot)
    say(f"{trained} trainings run, {asked:,} images asked. The board: {page.resolve().as_uri()}")
    for failure in failures:
        say(f"bench: error: {failure}")
    if failures:
        sys.exit(getattr(failures[0], "exit_code", 1))
    stop_if_damaged(site.board.damaged)
    if cannot:
        sys.exit(4)


def _say_cannot(cannot: dict[str, str]) -> None:
    """Name the rows that cannot be run, by the reason."""
    for reason in dict.fromkeys(cannot.values()):
        rows = [row for row, why in cannot.items() if why == reason]
        say(f"Cannot be run here: {', '.join(rows)}: {reason}")


def _finish(as_json: bool, document: dict[str, Any]) -> None:

    if as_json:
        print_json(document)
