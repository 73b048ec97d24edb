"""bench gate --replay: what the baseline's adversarial images say of new weights, before any attack."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console import print_json, prints_aside, say
from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.standing import Standings


def gate(
    now: Standings, before: Standings, where: str, *, ledger: str, as_json: bool, junit: str, markdown: str,
    github: bool, then_attack: bool, store: str, data: str, plugin: tuple[str, ...], device: str,
    datasets: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Replay, perhaps attack, compare, say so everywhere it is asked for, and exit."""
    from bench import gate_report, replay
    from bench.gate import Rules
    from bench.ledger import Ledger
    from bench.place import Place, pick_batch, pick_device
    from bench.report import print_rich, reporter
    from bench.verify import Datasets

    if options.get("sequential"):
        raise UsageError("--replay settles what it can at once, --sequential as images come; give one of them")
    rules = Rules(**{f.name: options[f.name] for f in fields(Rules) if f.name in options})
    chosen = pick_device(device)
    files = tuple(str(Path(f).resolve()) for f in plugin)
    place = Place(Path(ledger), Path(store), Path(data), files, chosen, pick_batch(chosen))
    sources = [Ledger(Path(where)), place.ledger] if Path(where).is_dir() else [place.ledger]
    with prints_aside(), reporter() as report:
        found, bounds = replay.gate(
            before, now, rules, sources, place, Datasets(place, datasets), then_attack=then_attack, report=report.line
        )
    gate_report.write(found, junit=junit, markdown=markdown, github=github)
    if as_json:
        print_json({**gate_report.document(found), "replay": [replay.plain(b) for b in bounds]})
    if found.comparisons:
        print_rich(gate_report.table(found))
    for sentence in (*replay.sentences(found, bounds), *gate_report.sentences(found)):
        say(sentence)
    sys.exit(found.exit_code)
