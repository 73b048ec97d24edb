"""The command line: the only place that wires the house.  torch, pandas and pydantic are imported when needed."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli_check import check
from bench.errors import RampartError, UsageError
from bench.options import (
    Command,
    Files,
    data_option,
    exam_options,
    gate_options,
    json_option,
    ledger_option,
    option,
    places,
    plugin_option,
    site_option,
    store_option,
)

if TYPE_CHECKING:
    from bench.executors import Executor
    from bench.place import Place
    from bench.request import Exam
    from bench.run import Summary
    from bench.standing import Standings

KINDS = ("defenses", "attacks", "nets", "datasets", "corruptions", "suites", "columns", "presets", "zoo", "canaries")
LONG = 600.0  # seconds of one worker, from which on a run announces what it starts
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="rampart-bench", prog_name="bench")
def cli() -> None:
    r"""Rampart: train a defense, attack it, record what fell, publish the board.

    \b
    bench run --defense part-trades --suite quick      (a minute on a CPU)
    bench run --defense at trades --dataset mnist --data DIR -n 1000
    """


cli.add_command(check)


@cli.command(cls=Command)
@option(
    "--escalate/--no-escalate", default=None, help="ask more of models that raise a doubt; default: with --suite full"
)
@exam_options
@places
def run(as_json: bool, site: str, executor: str, workers: int | None, escalate: bool | None, **options: Any) -> None:
    """Train (or pull), attack, judge, record, publish.

    What is in the ledger already is not run again; a killed run continues.
    """
    from bench.escalation import escalated
    from bench.report import print_rich, reporter
    from bench.run import run as run_exam
    from leaderboard.site import document, publish
    from leaderboard.table import table
    from leaderboard.terminal import text

    with _prints_aside(), reporter() as report:  # plugins may print
        exam, place = _resolve(options)
        _warn_of_hours(exam, place)
        summary = run_exam(exam, place, _executor(executor, workers, exam, place), report=report.line)
        if escalate or (escalate is None and options["suite"] == "full" and not options["columns"]):
            for probes, more in escalated(place, exam):
                models = "1 model is" if len(more.lessons) == 1 else f"{len(more.lessons)} models are"
                report.line(f"doubt: {models} asked more: {', '.join(probes)}")
                summary.add(run_exam(more, place, _executor(executor, workers, more, place), report=report.line))
        page = publish(place.ledger, Path(site))
    board = table(place.ledger)
    test, threat = exam.dataset.test.hash, str(exam.threat)
    board = replace(board, sections=tuple(x for x in board.sections if x.test == test and x.threat in (threat, None)))
    if as_json:
        _print_json({"schema": "rampart/run-1", **_done(summary), "site": str(page), "board": document(board)})
    print_rich(text(board))
    _say_left_out(exam)
    _say_unset(exam)
    _say(_sentence(summary, exam))
    _say(f"The board: {page.resolve().as_uri()}")
    for failure in summary.failures:
        _say(f"bench: error: {failure}")
    if summary.failures:
        sys.exit(summary.failures[0].exit_code)


@cli.command(cls=Command)
@exam_options
@places
def plan(as_json: bool, site: str, executor: str, workers: int | None, **options: Any) -> None:
    """What run would do: cells done and missing, passes, time.  Writes nothing."""
    from bench.plan import plan as plan_exam
    from bench.report import plan_table

    with _prints_aside():
        exam, place = _resolve(options)
        lines = plan_exam(exam, place)
    if as_json:
        from dataclasses import asdict

        _print_json({"schema": "rampart/plan-1", "lines": [asdict(line) for line in lines]})
    plan_table(lines)
    _say_left_out(exam)
    _say_unset(exam)


@cli.command("list", cls=Command)
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("words", nargs=-1)
@plugin_option
@json_option
def list_(kind: str, words: tuple[str, ...], plugin: tuple[str, ...], as_json: bool) -> None:
    """Everything of a kind, with settings and defaults; with WORDS, what these are said of.

    zoo: published models, best first, with what is reported of each (bench list zoo cifar10 linf wrn-28).
    """
    from bench.registry import plugins
    from bench.report import catalogue, catalogue_table

    with _prints_aside():
        found = catalogue(plugins(plugin), kind, words)
    if as_json:
        _print_json({"schema": "rampart/list-1", kind: found})
    else:
        catalogue_table(kind, found)


@cli.command(cls=Command)
@ledger_option
@site_option
@option("-n", "--n", type=click.IntRange(min=1), help="only the first N test images count; default: all")
@json_option
def publish(ledger: str, site: str, n: int | None, as_json: bool) -> None:
    """The board from the ledger alone: no GPU, no weights, no data."""
    from bench.ledger import Ledger
    from leaderboard.site import publish as publish_site

    if not Path(ledger).is_dir():
        raise UsageError(f"--ledger {ledger}: there is no such folder; bench run makes one")
    page = publish_site(Ledger(Path(ledger)), Path(site), n or 0)
    if as_json:
        _print_json({"schema": "rampart/publish-1", "page": str(page)})
    _say(f"The board: {page.resolve().as_uri()}")


@cli.command(cls=Command)
@gate_options
@ledger_option
@json_option
def gate(ledger: str, baseline: str, record: str, as_json: bool, **options: Any) -> None:
    r"""CI regression on robust accuracy: fails where a model is less robust than in the baseline.

    \b
    bench gate --record baseline.json                     keep what this ledger says
    bench gate --baseline baseline.json --max-drop 1      later, on a ledger of retrained models
    The exit code is 3 after a regression: a drop beyond --max-drop that chance does not explain.
    """
    from bench.ledger import Ledger
    from bench.standing import Standings

    if bool(baseline) == bool(record):
        raise UsageError("give --baseline X to compare with, or --record FILE to write one")
    if as_json and options["github"]:
        raise UsageError("--json and --github both write to standard output; give one of them")
    if not Path(ledger).is_dir():
        raise UsageError(f"--ledger {ledger}: there is no such folder; bench run makes one")
    now = Standings.of(Ledger(Path(ledger)))
    if record:
        _record(now, record, ledger, as_json=as_json)
    else:
        _gate(now, baseline, ledger, as_json=as_json, **options)


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

    with _prints_aside(), reporter() as report:
        found = fetch_dataset(plugins(plugin), name, Path(data), [Path(path) for path in given], report.line)
    if as_json:
        _print_json({"schema": "rampart/fetch-1", **found})
    parts = ", ".join(f"{count:,} {part}" for part, count in found["images"].items())
    channels, size = found["channels"], found["size"]
    _say(f"{found['name']} is whole: {parts} images of {channels}x{size}x{size} in {found['classes']} classes.")


@cli.command(cls=Command)
@click.argument("kind", type=click.Choice(["corruptions"]))
@option("--dataset", default="cifar10", show_default=True, help="a name, or npz:FILE")
@option("--image", type=click.IntRange(min=0), default=0, show_default=True, help="its place in the test part")
@option("--out", default="results/figures", show_default=True, metavar="DIR", help="where the figure goes")
@data_option
@plugin_option
@json_option
def figure(kind: str, dataset: str, image: int, out: str, data: str, plugin: tuple[str, ...], as_json: bool) -> None:
    """Pictures.  corruptions: one test image under every corruption at every severity, as an SVG."""
    from bench.files import write_atomically
    from bench.pictures import corruptions
    from bench.place import Place
    from leaderboard.sheet import sheet_svg

    with _prints_aside():
        place = Place(Path(), Path(), Path(data), tuple(str(Path(f).resolve()) for f in plugin))
        sheet = corruptions(place.registry, place.dataset(place.registry.parse("dataset", dataset)), image)
    path = Path(out) / f"{kind}-{re.sub(r'[^A-Za-z0-9.-]+', '-', sheet.dataset)}-{image}.svg"
    write_atomically(path, sheet_svg(sheet).encode())
    for name, reason in sheet.left_out:
        _say(f"Left out: {name}: {reason}.")
    if as_json:
        _print_json({"schema": "rampart/figure-1", "figure": str(path), "left_out": dict(sheet.left_out)})
    _say(f"The figure: {path.resolve().as_uri()}")


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

    with _prints_aside():
        findings = examine(
            Path(options["ledger"]), Path(options["store"]), Path(options["data"]), options["plugin"],
            options["dataset"], options["device"], online=options["online"],
        )  # fmt: skip
    if as_json:
        _print_json({"schema": "rampart/doctor-1", "findings": [asdict(f) for f in findings]})
    findings_table(findings)
    if any(f.state == "wrong" for f in findings):
        sys.exit(4)


def _record(now: Standings, file: str, ledger: str, *, as_json: bool) -> None:
    """Write a baseline."""
    from bench import baseline

    if not now.every:
        raise UsageError(f"--ledger {ledger}: no column of a model is decided there; bench run adds some")
    baseline.record(now, Path(file))
    if as_json:
        _print_json({"schema": "rampart/gate-record-1", "baseline": file, "columns": len(now.every)})
    models = len({s.model for s in now.every})
    _say(f"{file}: {len(now.every)} columns of {models} models. From now on: bench gate --baseline {file}")


def _gate(
    now: Standings, where: str, ledger: str, *, max_drop: float, alpha: float, strict: bool, no_doubts: bool,
    junit: str, markdown: str, github: bool, as_json: bool,
) -> None:  # fmt: skip
    """Compare, say so everywhere it is asked for, and exit."""
    from bench import baseline, gate_report
    from bench.gate import Rules, compare
    from bench.report import print_rich

    before = baseline.read(where)
    if before is None:
        _say(f"There is no baseline at {where} yet. To record one: bench gate --ledger {ledger} --record FILE")
        if as_json:
            _print_json({"schema": "rampart/gate-1", "verdict": "there is no baseline", "exit_code": 4 * strict})
        sys.exit(4 if strict else 0)
    report = compare(before, now, Rules(max_drop, alpha, strict, no_doubts))
    gate_report.write(report, junit=junit, markdown=markdown, github=github)
    if as_json:
        _print_json(gate_report.document(report))
    if report.comparisons:
        print_rich(gate_report.table(report))
    for sentence in gate_report.sentences(report):
        _say(sentence)
    sys.exit(report.exit_code)


def _resolve(options: dict[str, Any]) -> tuple[Exam, Place]:
    """The exam and the place that the options name."""
    from bench.place import Place, pick_batch, pick_device
    from bench.registry import split_list
    from bench.request import Request, resolve

    device = pick_device(options["device"])
    place = Place(
        Path(options["ledger"]), Path(options["store"]), Path(options["data"]),
        tuple(str(Path(f).resolve()) for f in options["plugin"]), device, options["batch"] or pick_batch(device),
        _folder_for_tensorboard(options["tensorboard"]),
    )  # fmt: skip
    request = Request(
        defenses=tuple(text for given in options["defenses"] for text in split_list(given)),
        net=options["net"], dataset=options["dataset"], threat=options["threat"], seeds=options["seeds"],
        suite=options["suite"], columns=tuple(split_list(options["columns"])),
        conditions=tuple(split_list(options["conditions"])), n=options["n"] or 0,
        weights=options["weights"], attack_seed=options["attack_seed"],
        precision=options["precision"],
    )  # fmt: skip
    return resolve(request, place), place


def _folder_for_tensorboard(folder: str) -> str:
    """The folder, once it is known that it can be written."""
    from bench.history import summary_writer

    if folder:
        summary_writer()
    return str(Path(folder).resolve()) if folder else ""


def _say_left_out(exam: Exam) -> None:
    if exam.left_out:
        _say(f"Left out, since they do not search {exam.threat.norm}: {', '.join(exam.left_out)}.")
    for reason, names in exam.unfit.items():
        _say(f"Left out: {', '.join(names)}: {reason}.")


def _say_unset(exam: Exam) -> None:
    """Name the trainings whose settings nobody chose for this data set."""
    if exam.unset:
        _say(
            f"No preset for this data set: {', '.join(exam.unset)}; the defaults are those of CIFAR-10 papers, "
            "and bench list presets shows what there is."
        )


def _warn_of_hours(exam: Exam, place: Place) -> None:
    """Say what takes long before it starts."""
    from bench.plan import costly, is_small, plan
    from bench.report import duration

    if is_small(exam, place):
        return
    for line in costly(plan(exam, place), LONG):
        each = f", {line.forwards // line.missing:,} forwards an image" if line.forwards >= line.missing > 0 else ""
        _say(f"{line.what}: up to {duration(line.seconds)} on one worker ({line.missing:,} missing{each})")


def _executor(name: str, workers: int | None, exam: Exam, place: Place) -> Executor:
    """The executor by name; auto takes processes for several trainings, or about a minute of attacks or more."""
    from bench.executors import Inline, Process
    from bench.place import cores
    from bench.plan import is_small

    small = name == "auto" and workers is None and is_small(exam, place)
    return Inline() if name == "inline" or small else Process(workers or cores())


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


def _print_json(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


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
        _say(f"bench: error: {error}")
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _terminate(_signal: int, _frame: object) -> None:
    """End as Ctrl-C does, workers too."""
    raise KeyboardInterrupt


@contextmanager
def _prints_aside() -> Iterator[None]:
    """Whatever plugins print, also by the file descriptor, goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _interrupted() -> int:
    _say("bench: interrupted; the same command continues")
    return 130
