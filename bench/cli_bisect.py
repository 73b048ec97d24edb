"""bench bisect: the commit or the settings that lowered a column."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bench.console import print_json, prints_aside, say
from bench.errors import UsageError
from bench.options import Command, Number, exam_options, option, places

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.bisection import Found
    from bench.gate import Rules
    from bench.report import Reporter


def _bisect_options(command: Any) -> Any:
    """The options of run but for the defense, which are the exam of each step, and those of the search."""
    command = places(exam_options(command))
    command.__click_params__ = [p for p in command.__click_params__ if p.name not in {"defenses", "site"}]
    for add in (
        option("--alpha", type=Number(0.0, 1.0), default=0.05, show_default=True,
               help="how often a false alarm is accepted, in each step"),
        option("--max-drop", type=Number(0.0, 100.0, ends=True), default=0.0, show_default=True, metavar="POINTS",
               help="points of accuracy that may be lost"),
        click.option("--work", default="results/bisect", show_default=True, metavar="DIR",
                     help="where what was found of each commit is kept"),
        click.option("--result", default="", metavar="FILE",
                     help="what the command writes, by bench gate --record; default: what it adds to the ledger"),
        click.option("--command", default="", metavar="TEXT",
                     help="examines a commit: 'bench run --defense at --plugin mine.py'; no shell reads it"),
        click.option("--bad", required=True, metavar="X", help="a commit, or a recipe, that is less robust"),
        click.option("--good", required=True, metavar="X", help="a commit, or a recipe, that is robust"),
    ):  # fmt: skip
        command = add(command)
    return command


@click.command(cls=Command)
@_bisect_options
def bisect(
    good: str, bad: str, command: str, result: str, work: str, max_drop: float, alpha: float, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    r"""The commit, or the settings, that lowered robustness.

    \b
    bench bisect --good v1.0 --bad HEAD --command "bench run --defense at --plugin mine.py"
    bench bisect --good "trades(beta=6.0)" --bad "trades(beta=1.0, epochs=5)" --columns "clean, pgd-20"

    Each step is judged beside the good end by the test of bench gate, on the same images.  With --command commits are
    examined, each in a checkout of its own; else the settings in which two recipes differ, alone and then together.
    What was examined before is not examined again.
    """
    from bench.bisection import document, table
    from bench.gate import Rules
    from bench.report import print_rich, reporter

    _check(click.get_current_context(), command)
    rules = Rules(max_drop, alpha)
    with prints_aside(), reporter() as report:
        tell = _sayer(report)
        if command:
            found = _commits(good, bad, command, result, work, rules, options, tell)
        else:
            found = _settings(good, bad, rules, options, report.line, tell)
    if as_json:
        print_json(document(found, good=good, bad=bad, command=command))
    print_rich(table(found.steps))
    say(found.sentence)
    sys.exit(found.exit_code)


def _check(ctx: click.Context, command: str) -> None:
    """Nothing that is said on the line is without effect."""
    both = {"good", "bad", "command", "max_drop", "alpha", "ledger", "data", "as_json"}
    commits = {"result", "work"}
    for param in ctx.command.params:
        name = str(param.name)
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE and name not in both:
            if command and name not in commits:
                raise UsageError(
                    f"{param.opts[-1]} says how settings are examined; for commits write it into --command"
                )
            if not command and name in commits:
                raise UsageError(f"{param.opts[-1]} is for commits, which need --command")


def _commits(
    good: str, bad: str, command: str, result: str, work: str, rules: Rules, options: dict[str, Any],
    tell: Callable[[str], None],
) -> Found:  # fmt: skip
    from bench.bisect_commits import Repository, Search, words_of

    words = words_of(command)
    return Search(
        Repository.here(Path()), words, result, rules, Path(work), Path(options["ledger"]), Path(options["data"]), tell
    ).run(good, bad)


def _settings(
    good: str, bad: str, rules: Rules, options: dict[str, Any],
    report: Callable[[str], None], tell: Callable[[str], None],
) -> Found:  # fmt: skip
    from bench.bisect_settings import bisect as bisect_settings
    from bench.cli_exam import executor_of, resolved

    return bisect_settings(
        good, bad, lambda text: resolved({**options, "defenses": (text,)}),
        lambda exam, place: executor_of(options, exam, place), rules, report, tell,
    )  # fmt: skip


def _sayer(report: Reporter) -> Callable[[str], None]:
    """A line that stays, also beside a line of progress."""

    def tell(text: str) -> None:
        if report.status is not None:
            report.status.console.print(text, markup=False, highlight=False)
        else:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    return tell
