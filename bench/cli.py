"""The command line: the only place that wires the house.  torch, pandas and pydantic are imported when needed."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli_bisect import bisect
from bench.cli_check import check
from bench.cli_exam import executor_of, followed, logged, resolved
from bench.cli_figure import figure
from bench.cli_gate import gate
from bench.cli_ledger import ledger as ledger_commands
from bench.cli_reproduce import reproduce
from bench.cli_verify import audit, bundle, verify
from bench.cli_watch import watch
from bench.console import print_json, prints_aside, say, stop_if_damaged
from bench.errors import RampartError, UsageError
from bench.options import (
    Choice,
    Command,
    Files,
    Group,
    data_option,
    exam_options,
    json_option,
    ledger_option,
    option,
    places,
    plugin_option,
    site_option,
    store_option,
)

if TYPE_CHECKING:
    from bench.place import Place
    from bench.plan import Line
    from bench.request import Exam
    from bench.run import Summary

KINDS = (
    "defenses", "attacks", "nets", "datasets", "corruptions", "suites", "columns", "presets", "studies", "zoo",
    "canaries",
)  # fmt: skip
LONG = 600.0  # seconds of one worker, from which on a run announces what it starts
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(package_name="rampart-bench", prog_name="bench")
def cli() -> None:
    """Rampart: train a defense, attack it, record what fell, publish the board.

    \u0008
    bench run --defense part-trades --suite quick      (a minute on a CPU)
    bench run --defense at trades --dataset mnist --data DIR -n 1000
    """


@cli.command(cls=Command)
@option(
    "--escalate/--no-escalate", default=None, help="ask more of models that raise a doubt; default: with --suite full"
)
@option("--events", default="", metavar="FILE", help="the event log; default: a new one in events/ beside the ledger")
@option("--certify", is_flag=True, help="prove first which images stand whatever the attack; these are not attacked")
@exam_options
@places
def run(as_json: bool, site: str, events: str, escalate: bool | None, certify: bool, **options: Any) -> None:
    """Train (or pull), attack, judge, record, publish.

    What is in the ledger already is not run again; a killed run continues.
    """
    from bench.escalation import escalated, look_closer
    from bench.events import listening
    from bench.report import print_rich, reporter
    from bench.run import run as run_exam
    from leaderboard.document import document
    from leaderboard.site import publish
    from leaderboard.terminal import text

    if followed(options):
        return
    with prints_aside(), reporter() as report:  # plugins may print
        exam, place = resolved(options)
        planned = _warn_of_hours(exam, place)
        with logged(events, planned, exam, place) as log:
            where = listening(executor_of(options, exam, place), log)
            summary = run_exam(exam, place, where, report=report.line, log=log, certificates=certify)
            if escalate or (escalate is None and options["suite"] == "full" and not options["columns"]):
                look_closer(place, exam, executor_of(options, exam, place), report.line)
                for probes, more in escalated(place, exam):
                    models = "1 model is" if len(more.lessons) == 1 else f"{len(more.lessons)} models are"
                    report.line(f"doubt: {models} asked more: {', '.join(probes)}")
                    where = listening(executor_of(options, more, place), log)
                    summary.add(run_exam(more, place, where, report=report.line, log=log))
            board = publish(place.ledger, Path(site)).board
    page = Path(site) / "index.html"
    test, threat = exam.dataset.test.hash, str(exam.threat)
    board = replace(board, sections=tuple(x for x in board.sections if x.test == test and x.threat in (threat, None)))
    if as_json:
        print_json({"schema": "rampart/run-1", **_done(summary), "site": str(page), "board": document(board)})
    print_rich(text(board))
    _say_left_out(exam)
    _say_unset(exam)
    say(_sentence(summary, exam))
    say(f"The board: {page.resolve().as_uri()}")
    for failure in summary.failures:
        say(f"bench: error: {failure}")
    if summary.failures:
        sys.exit(summary.failures[0].exit_code)
    stop_if_damaged(board.damaged)


@cli.command(cls=Command)
@exam_options
@places
def plan(as_json: bool, site: str, **options: Any) -> None:
    """What run would do: cells done and missing, passes, time.  Writes nothing."""
    from bench.cli_exam import arrays_of, lines_json, say_arrays
    from bench.plan import plan as plan_exam
    from bench.report import plan_table

    with prints_aside():
        exam, place = resolved(options)
        lines = plan_exam(exam, place)
        arrays = arrays_of(options, lines)
    if as_json:
        print_json({"schema": "rampart/plan-1", "lines": lines_json(lines), **({"arrays": arrays} if arrays else {})})
    plan_table(lines)
    say_arrays(arrays)
    _say_left_out(exam)
    _say_unset(exam)


@cli.command("list", cls=Command)
@click.argument("kind", type=Choice(KINDS))
@click.argument("words", nargs=-1)
@plugin_option
@json_option
def list_(kind: str, words: tuple[str, ...], plugin: tuple[str, ...], as_json: bool) -> None:
    """Everything of a kind, with settings and defaults; with WORDS, what these are said of.

    zoo: published models, best first, with what is reported of each (bench list zoo cifar10 linf wrn-28).
    """
    from bench.registry import plugins
    from bench.report import catalogue, catalogue_table

    with prints_aside():
        found = catalogue(plugins(plugin), kind, words)
    if as_json:
        print_json({"schema": "rampart/list-1", kind: found})
    else:
        catalogue_table(kind, found)


@cli.command(cls=Command)
@ledger_option
@site_option
@option("-n", "--n", type=click.IntRange(min=1), help="only the first N test images count; default: all")
@click.option("--as-of", default="", metavar="DATE", help="as it was: a day, a time, or a version of Rampart (0.1.0)")
@click.option("--reported", is_flag=True, help="first write into the ledger what zoos report of published models")
@json_option
def publish(ledger: str, site: str, n: int | None, as_of: str, reported: bool, as_json: bool) -> None:
    """The board from the ledger alone: no GPU, no weights, no data."""
    from bench.ledger import Ledger
    from leaderboard.site import publish as publish_site

    if not Path(ledger).is_dir():
        raise UsageError(f"--ledger {ledger}: there is no such folder; bench run makes one")
    if reported:
        from bench.registry import plugins
        from bench.zoo import write_down

        with prints_aside():
            write_down(plugins(), Ledger(Path(ledger)))
    damaged = publish_site(Ledger(Path(ledger)), Path(site), n or 0, as_of).board.damaged
    page = Path(site) / "index.html"
    if as_json:
        print_json({"schema": "rampart/publish-1", "page": str(page), "damaged": list(damaged)})
    say(f"The board: {page.resolve().as_uri()}")
    stop_if_damaged(damaged)


@cli.command(cls=Command)
@click.argument("name")
@click.option(
    "--from-file",
    "given",
    multiple=True,
    type=Files(),
    metavar="PATH",
    help="a published file that you have, or a folder with such files; may be given several times",
)
@data_option
@plugin_option
@json_option
def fetch(name: str, given: tuple[str, ...], data: str, plugin: tuple[str, ...], as_json: bool) -> None:
    """A data set, by checked download: from several mirrors, and on from where it broke off.

    Without a network: get its files elsewhere, and name them by --from-file.
    """
    from bench.doctor import fetch_dataset
    from bench.registry import plugins
    from bench.report import reporter

    with prints_aside(), reporter() as report:
        found = fetch_dataset(plugins(plugin), name, Path(data), [Path(path) for path in given], report.line)
    if as_json:
        print_json({"schema": "rampart/fetch-1", **found})
    parts = ", ".join(f"{count:,} {part}" for part, count in found["images"].items())
    channels, size = found["channels"], found["size"]
    say(f"{found['name']} is whole: {parts} images of {channels}x{size}x{size} in {found['classes']} classes.")


@cli.command(cls=Command)
@option("--dataset", default="", help="load this data set too")
@option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1")
@click.option("--online", is_flag=True, help="ask every host that something is fetched from, too")
@ledger_option
@store_option
@data_option
@plugin_option
@json_option
def doctor(as_json: bool, **options: Any) -> None:
    """What is wrong with this machine's set-up, and the mend.

    The exit code is 4 when something that is needed, or that an option names, is missing or wrong.
    """
    from dataclasses import asdict

    from bench.doctor import examine
    from bench.report import findings_table

    with prints_aside():
        findings = examine(
            Path(options["ledger"]), Path(options["store"]), Path(options["data"]), options["plugin"],
            options["dataset"], options["device"], online=options["online"],
        )  # fmt: skip
    if as_json:
        print_json({"schema": "rampart/doctor-1", "findings": [asdict(f) for f in findings]})
    findings_table(findings)
    if any(f.state == "wrong" for f in findings):
        sys.exit(4)


def _say_left_out(exam: Exam) -> None:
    if exam.left_out:
        say(f"Left out, since they do not search {exam.threat.norm}: {', '.join(exam.left_out)}.")
    for reason, names in exam.unfit.items():
        say(f"Left out: {', '.join(names)}: {reason}.")


def _say_unset(exam: Exam) -> None:
    """Name the trainings whose settings nobody chose for this data set."""
    if exam.unset:
        say(
            f"No preset for this data set: {', '.join(exam.unset)}; the defaults are those of CIFAR-10 papers, "
            "and bench list presets shows what there is."
        )


def _warn_of_hours(exam: Exam, place: Place) -> list[Line]:
    """Say what takes long before it starts; the plan, where the exam is not small."""
    from bench.plan import costly, is_small, plan
    from bench.report import duration

    if is_small(exam, place):
        return []
    planned = plan(exam, place)
    for line in costly(planned, LONG):
        each = f", {line.forwards // line.missing:,} forwards an image" if line.forwards >= line.missing > 0 else ""
        say(f"{line.what}: up to {duration(line.seconds)} on one worker ({line.missing:,} missing{each})")
    return planned


def _done(summary: Summary) -> dict[str, Any]:
    return {
        "trained": summary.trained,
        "images_asked": summary.asked,
        "records": [r.key for r in summary.records],
        "failures": [str(f) for f in summary.failures],
    }


def _sentence(summary: Summary, exam: Exam) -> str:
    """What was done, in words."""
    if not summary.trained and not summary.records and not summary.failures:
        return "Nothing to do: every training and every answer was in the ledger already."
    trained = f"{summary.trained} of {len(exam.lessons)} trainings run"
    return f"{trained}, {summary.asked:,} images asked in {len(summary.records)} new records."


for _command in (audit, bisect, bundle, check, figure, gate, ledger_commands, reproduce, verify, watch):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; every error that a user can mend is one line and an exit code."""
    with suppress(ValueError):  # in a thread of a host program signals are not ours
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = _interrupted()
    except KeyboardInterrupt:
        code = _interrupted()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except RampartError as error:
        say(f"bench: error: {error}")
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _terminate(_signal: int, _frame: object) -> None:
    """End as Ctrl-C does, workers too."""
    raise KeyboardInterrupt


def _interrupted() -> int:
    say("bench: interrupted; the same command continues")
    return 130
