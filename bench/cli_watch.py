"""bench watch: follow a run from its event log."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.console import print_json, say
from bench.options import Command, json_option, ledger_option

if TYPE_CHECKING:
    from rich.console import Group

    from bench.watch import Watched

EVERY = 1.0  # seconds between looks
LINES = 5.0  # seconds between lines where there is no terminal


@click.command(cls=Command)
@click.argument("log", default="", metavar="[LOG]")
@click.option("--once", is_flag=True, help="say how it stands, and do not wait")
@ledger_option
@json_option
def watch(log: str, once: bool, ledger: str, as_json: bool) -> None:
    """Follow a run from its event log: who does what, how fast, and how long it may take.

    LOG is a file, or a folder whose newest log counts; without it that beside the ledger.  A run that ended or was
    killed is shown as it was left; the exit code is then 4 unless it ended well.
    """
    from rich.console import Console

    from bench.watch import find, watched

    path = find(log, Path(ledger))
    run = watched(path)
    if as_json:
        print_json({"schema": "rampart/watch-1", **run.document()})
    elif once or run.state != "running":
        Console(stderr=True).print(shown(run))
    elif Console(stderr=True).is_terminal:
        run = _live(path)
    else:
        run = _lines(path)
    if run.state == "killed" or run.code:
        sys.exit(4)


def _live(path: Path) -> Watched:
    """In place, to the end of the run."""
    from rich.console import Console
    from rich.live import Live

    from bench.watch import watched

    run = watched(path)
    with Live(shown(run), console=Console(stderr=True), auto_refresh=False) as live:
        while run.state == "running":
            time.sleep(EVERY)
            run = watched(path)
            live.update(shown(run), refresh=True)
    return run


def _lines(path: Path) -> Watched:
    """A line every few seconds, to the end of the run."""
    from bench.watch import watched

    run, told = watched(path), -LINES
    while run.state == "running":
        if time.monotonic() - told >= LINES:
            told = time.monotonic()
            say(sentence(run))
        time.sleep(EVERY)
        run = watched(path)
    say(sentence(run))
    return run


def sentence(run: Watched) -> str:
    """How a run stands, in a line."""
    from bench.report import duration

    states = {"ended": f"ended with {run.code}", "unknown": "not known to live"}
    parts = [
        f"{states.get(run.state, run.state)} after {duration(run.seconds, 0)}",
        f"{run.trainings} trainings, {run.images:,} images asked, {run.fell:,} fell",
        f"{run.rate:,.0f} passes/s a worker",
    ]
    if run.state == "running":
        parts.append(f"{run.busy} of {max(run.width, len(run.workers))} workers busy")
    if run.left is not None:
        parts.append(f"at most {duration(run.left, 0)} left")
    parts += [f"{len(things)} {name}" for name, things in (("failed", run.failed), ("lost", run.lost)) if things]
    return "; ".join(parts)


def shown(run: Watched) -> Group:
    """How a run stands, with its workers, failures and doubts."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from bench.report import duration
    from bench.watch import progress

    table = Table(box=None, pad_edge=False)
    for name in ("worker", "tasks", "images", "passes/s", "busy", "now"):
        table.add_column(name, justify="left" if name in {"worker", "now"} else "right", no_wrap=name != "now")
    for worker in run.workers.values():
        rate = f"{worker.passes / worker.busy:,.0f}" if worker.busy else ""
        since = f" ({duration(run.seconds - worker.since, 0)})" if worker.now else ""
        doing = ", ".join(filter(None, [worker.now, progress(run, worker)]))
        table.add_row(
            worker.name, f"{worker.tasks:,}", f"{worker.images:,}", rate, f"{run.occupancy(worker):.0%}",
            Text(doing + since),
        )  # fmt: skip
    said = [Text(f"bench {' '.join(run.words)}", style="bold"), Text(sentence(run))]
    told = [Text(f"{name}: {thing}") for name, things in
            (("failed", run.failed), ("lost", run.lost), ("doubt", run.doubts)) for thing in things[-5:]]  # fmt: skip
    return Group(*said, *([table] if run.workers else []), *told)
