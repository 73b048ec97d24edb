"""bench gate: a baseline is recorded, or compared with; with --replay its adversarial images come first."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from bench.cli_exam import place_of
from bench.console import print_json, prints_aside, say
from bench.errors import UsageError
from bench.options import Command, gate_options, json_option, ledger_option, replay_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.gate import Report
    from bench.standing import Standings

REPLAYS = ("then_attack", "store", "data", "plugin", "datasets", "device")  # settings of --replay alone


@click.command(cls=Command)
@gate_options
@replay_options
@ledger_option
@json_option
def gate(ledger: str, baseline: str, record: str, as_json: bool, **options: Any) -> None:
    """CI regression on robust accuracy: fails where a model is less robust than in the baseline.

    \u0008
    bench gate --record baseline.json                     keep what this ledger says
    bench gate --baseline baseline.json --max-drop 1      later, on a ledger of retrained models

    The exit code is 3 after a regression: a drop beyond --max-drop that chance does not explain.
    """
    from bench.baseline import read as read_baseline
    from bench.ledger import Ledger
    from bench.standing import Standings

    replay = options.pop("replay")
    if bool(baseline) == bool(record):
        raise UsageError("give --baseline X to compare with, or --record FILE to write one")
    if as_json and options["github"]:
        raise UsageError("--json and --github both write to standard output; give one of them")
    if not Path(ledger).is_dir():
        raise UsageError(f"--ledger {ledger}: there is no such folder; bench run makes one")
    if (replay and record) or (options["then_attack"] and not replay):
        raise UsageError("--replay goes with --baseline, and --then-attack with --replay")
    now = Standings.of(Ledger(Path(ledger)))
    if replay and baseline and (before := read_baseline(baseline)) is not None:
        _replay(now, before, baseline, ledger=ledger, as_json=as_json, **options)
    for name in REPLAYS:
        options.pop(name)
    if record:
        _record(now, record, ledger, as_json=as_json)
    else:
        _gate(now, baseline, ledger, as_json=as_json, **options)


def _record(now: Standings, file: str, ledger: str, *, as_json: bool) -> None:
    """Write a baseline."""
    from bench import baseline
    from bench.trust import lies

    if not now.every:
        raise UsageError(f"--ledger {ledger}: no column of a model is decided there; bench run adds some")
    baseline.record(now, Path(file))
    if as_json:
        print_json({"schema": "rampart/gate-record-1", "baseline": file, "columns": len(now.every)})
    for text in dict.fromkeys(doubt for s in now.every for doubt in s.doubts if lies(doubt, s.column)):
        doubted = sorted({str(s.model) for s in now.every if text in s.doubts})
        say(f"Not to be trusted: {'; '.join(doubted)}: {text}")
    models = len({s.model for s in now.every})
    say(f"{file}: {len(now.every)} columns of {models} models. From now on: bench gate --baseline {file}")


def _gate(
    now: Standings, where: str, ledger: str, *, strict: bool, junit: str, markdown: str, github: bool, as_json: bool,
    **rules: Any,
) -> None:  # fmt: skip
    """Compare, say so everywhere it is asked for, and exit."""
    from bench import baseline
    from bench.gate import Rules, check_order, compare
    from bench.ledger import Ledger

    before = baseline.read(where)
    if before is None:
        recorded = where if baseline.recordable(where, now) and not strict else ""
        how = "it is recorded" if recorded else f"to record one: bench gate --ledger {ledger} --record FILE"
        say(f"There is no baseline at {where} yet; {how}")
        if recorded:
            baseline.record(now, Path(where))
        if as_json:
            none = {"verdict": "there is no baseline", "exit_code": 4 * strict, "recorded": recorded}
            print_json({"schema": "rampart/gate-1", **none})
        sys.exit(4 if strict else 0)
    report = compare(before, now, Rules(strict=strict, **rules))
    if report.rules.sequential:
        check_order(report, Ledger(Path(ledger)))
    _tell(report, junit=junit, markdown=markdown, github=github, as_json=as_json)


def _replay(
    now: Standings, before: Standings, where: str, *, ledger: str, as_json: bool, junit: str, markdown: str,
    github: bool, then_attack: bool, store: str, data: str, plugin: tuple[str, ...], device: str,
    datasets: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Replay, perhaps attack, compare, say so everywhere it is asked for, and exit."""
    from bench import replay
    from bench.gate import Rules
    from bench.ledger import Ledger
    from bench.report import reporter
    from bench.verify import Datasets

    if options.get("sequential"):
        raise UsageError("--replay settles what it can at once, --sequential as images come; give one of them")
    rules = Rules(**{f.name: options[f.name] for f in fields(Rules) if f.name in options})
    place = place_of({"ledger": ledger, "store": store, "data": data, "plugin": plugin, "device": device})
    sources = [Ledger(Path(where)), place.ledger] if Path(where).is_dir() else [place.ledger]
    with prints_aside(), reporter() as report:
        found, bounds = replay.gate(
            before, now, rules, sources, place, Datasets(place, datasets), then_attack=then_attack, report=report.line
        )
    _tell(
        found, junit=junit, markdown=markdown, github=github, as_json=as_json,
        first=replay.sentences(found, bounds), more={"replay": [replay.plain(b) for b in bounds]},
    )  # fmt: skip


def _tell(
    report: Report, *, junit: str, markdown: str, github: bool, as_json: bool, first: Iterable[str] = (),
    more: Mapping[str, Any] | None = None,
) -> NoReturn:  # fmt: skip
    """Say what came of a comparison everywhere it is asked for, and exit; first: sentences, more: of the document."""
    from bench import gate_report
    from bench.report import print_rich

    gate_report.write(report, junit=junit, markdown=markdown, github=github)
    if as_json:
        print_json({**gate_report.document(report), **(more or {})})
    if report.comparisons:
        print_rich(gate_report.table(report))
    for sentence in (*first, *gate_report.sentences(report)):
        say(sentence)
    sys.exit(report.exit_code)
