"""What a person at a terminal reads: progress, plans and catalogues, on standard error."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

from bench.canary import Canary
from bench.exam import Column, Study, Suite
from bench.recipe import Alias, Attack, Plugin, Preset
from bench.zoo import Zoo

if TYPE_CHECKING:
    from rich.status import Status

    from bench.plan import Line
    from bench.registry import Registry
    from bench.zoo import Finding

MANY = 300  # lines of a plan, beyond which it is shown in sums
EVERY = 2.0  # seconds between lines where there is no terminal
SINGULAR = {"canaries": "canary", "studies": "study"}
ALWAYS = ("failed:", "doubt:")  # how lines begin that are never left out


@dataclass
class Reporter:
    """A line of progress: in place on a terminal, else one every few seconds; failures and doubts always."""

    status: Status | None = None
    last: float = field(default=0.0)

    def line(self, text: str) -> None:
        """Show a line."""
        if self.status is not None and not text.startswith(ALWAYS):
            self.status.update(text.replace("[", r"\["))
        elif text.startswith(ALWAYS) or time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


@contextmanager
def reporter() -> Iterator[Reporter]:
    """A reporter that cleans up after itself."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("looking at what is missing") as status:
            yield Reporter(status)
    else:
        yield Reporter()


def print_rich(thing: RenderableType) -> None:
    """Show a table or text of rich's."""
    console = Console(stderr=True)
    needed = Measurement.get(console, console.options.update(max_width=200), thing).minimum
    Console(stderr=True, width=max(console.width, needed)).print(thing)


def plan_table(lines: Sequence[Line]) -> None:
    """Print a plan with its sums."""
    table = Table(title="Plan", show_footer=True, box=None, pad_edge=False)
    total = [sum(getattr(line, name) for line in lines) for name in ("missing", "forwards", "backwards")]
    table.add_column("what", footer="all", overflow="fold")
    for name, footer in zip(
        ("done", "missing", "forwards", "backwards"), ("", *(f"{t:,}" for t in total)), strict=True
    ):
        table.add_column(name, justify="right", footer=footer)
    table.add_column("time", justify="right", footer=duration(sum(line.seconds for line in lines)))
    for line in lines if len(lines) <= MANY else _summed(lines):
        table.add_row(
            line.what.replace("[", r"\["), f"{line.done:,}", f"{line.missing:,}", f"{line.forwards:,}",
            f"{line.backwards:,}", duration(line.seconds),
        )  # fmt: skip
    console = Console(stderr=True)
    console.print(table)
    console.print(
        "Epochs of a training and images of a column; passes are at most so many, since images drop out as they fall; "
        "times are for one worker.",
        style="dim",
    )


def _summed(lines: Sequence[Line]) -> Iterator[Line]:
    """A line for all trainings, and one for each column, in place of very many."""
    by_column: dict[str, list[Line]] = {}
    for line in lines:
        by_column.setdefault(line.column, []).append(line)
    for column, several in by_column.items():
        what = f"{column}: {len(several):,} cells" if column else f"{len(several):,} trainings"
        counts = ("done", "missing", "forwards", "backwards")
        sums = {name: sum(getattr(line, name) for line in several) for name in counts}
        yield replace(several[0], what=what, seconds=sum(line.seconds for line in several), **sums)


def findings_table(findings: Sequence[Finding]) -> None:
    """Print what the doctor found; the mend stands below what is wrong or missing."""
    table = Table(box=None, pad_edge=False, show_header=False)
    signs = {"fine": "[green]fine", "note": "[yellow]note", "wrong": "[red]wrong"}
    for found in findings:
        mend = f"\n{found.mend}" if found.mend else ""
        table.add_row(signs[found.state], found.what, f"{found.said}{mend}".replace("[", r"\["))
    print_rich(table)


def duration(seconds: float, digits: int = 1) -> str:
    """Seconds as a person says them; digits: behind the point, below 100 seconds."""
    if seconds < 100:
        return f"{seconds:.{digits}f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def catalogue(registry: Registry, kind: str, words: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Everything of a kind (plural) of which all the words are said, as plain values."""
    presets = sorted(registry.presets, key=lambda p: (p.defense, p.dataset, p.name, p.net))
    things: list[object] = (
        [*presets] if kind == "presets" else [*registry.all(SINGULAR.get(kind, kind.removesuffix("s")))]
    )
    entries = [_entry(t) for t in things if not isinstance(t, Zoo)] + [
        entry for t in things if isinstance(t, Zoo) for entry in t.entries()
    ]
    whole = {str(e[name]) for e in entries for name in ("dataset", "threat") if name in e}  # cifar10 is not cifar100

    def said(word: str, entry: dict[str, Any]) -> bool:
        if word in whole:
            return word in {entry.get("dataset"), entry.get("threat")}
        return word in " ".join(map(str, entry.values())).lower()

    return [e for e in entries if all(said(w.lower(), e) for w in words)]


def _entry(thing: object) -> dict[str, Any]:
    match thing:
        case Preset():
            return _preset(thing)
        case Attack():
            about = inspect.getdoc(thing.function) or ""
            cost = " ".join(about.partition("Cost: ")[2].split()).partition(". ")[0].rstrip(".")
            return _plugin(thing) | {
                "norms": list(thing.norms), "access": thing.access, "goal": thing.goal,
                "cost": cost, "passes": _passes(thing), "about": about,
            }  # fmt: skip
        case Plugin():
            return _plugin(thing)
        case Canary():
            caught = f"; must raise {thing.caught_by}" if thing.caught_by else "; honest: must raise nothing"
            return {"name": thing.name, "summary": thing.summary + caught, "settings": {}}
        case Alias():
            return {"name": thing.name, "summary": f"short for {thing.recipe}", "settings": {}}
        case Column():
            return {"name": thing.name, "summary": " + ".join(thing.attacks), "settings": {}, "strict": thing.strict}
        case Suite():
            columns = ", ".join(name for names, _ in thing.parts for name in names)
            return {"name": thing.name, "summary": f"{thing.summary} ({columns})".strip(), "settings": {}}
        case Study():
            threats = ", ".join(f"{norm}:{eps}" for norm, every in thing.eps for eps in every)
            said = f"{thing.about}: {thing.net} on {thing.dataset} for {threats}"
            return {"name": thing.name, "summary": said, "settings": {}, "dataset": thing.dataset}
    raise TypeError(thing)


def _preset(preset: Preset) -> dict[str, Any]:
    asked = f"(preset={preset.name!r})" if preset.name else ""
    net = "" if preset.net == "*" else f", {preset.net}"
    return {
        "name": f"{preset.defense}{asked}", "summary": f"on {preset.dataset}{net}: {preset.source}",
        "settings": dict(preset.settings), "dataset": preset.dataset, "net": preset.net, "source": preset.source,
    }  # fmt: skip


def _passes(attack: Attack[Any]) -> tuple[int, int] | None:
    """Forwards and backwards of an image that never falls, of ten classes, at the defaults."""
    given = all(
        v is not inspect.Parameter.empty for name, v in attack.defaults.items() if name not in attack.surrogates
    )
    return attack.cost(**attack.defaults) if attack.cost and given else None


def _plugin(plugin: Plugin) -> dict[str, Any]:
    settings = {k: "(needed)" if v is inspect.Parameter.empty else v for k, v in plugin.defaults.items()}
    return {
        "name": plugin.name, "summary": plugin.summary, "settings": settings, "version": plugin.version,
        "paper": plugin.paper, "where": plugin.where,
    }  # fmt: skip


def catalogue_table(kind: str, entries: Sequence[dict[str, Any]]) -> None:
    """Print a catalogue."""
    console = Console(stderr=True, highlight=False)
    if not entries:
        console.print(f"None of the {kind} fits; without words all are shown, and a plugin may bring more.")
    if kind == "zoo":
        for (dataset, threat), models in groupby(entries, key=lambda e: (e["dataset"], e["threat"])):
            print_rich(_zoo_table(f"{dataset}, {threat}", list(models)))
        if entries:
            console.print(
                "Percentages as they are reported there; in brackets under attacks that were found to do better than "
                f"AutoAttack.  To pull one: --defense \"{next((e['recipe'] for e in entries if e['recipe']), '…')}\"",
                style="dim", markup=False,
            )  # fmt: skip
        return
    for entry in entries:
        settings = ", ".join(f"{k}={v!r}" for k, v in entry["settings"].items())
        goal = entry.get("goal", "") if entry.get("goal") != "in-ball" else ""
        facts = [", ".join(entry.get("norms", ())), entry.get("access", ""), goal, entry.get("paper", "")]
        console.print(_title(entry))
        if any(facts) or settings:
            console.print("    " + "; ".join(f for f in [*facts, settings] if f), style="dim", markup=False)
        if passes := entry.get("passes"):
            formula = f": {entry['cost']}" if entry["cost"] else ""
            console.print(f"    {passes[0]:,} + {passes[1]:,} passes an image{formula}", style="dim", markup=False)


def _zoo_table(title: str, models: Sequence[dict[str, Any]]) -> Table:
    """Published models of one data set and threat."""
    table = Table(title=f"{title}: {len(models)}", title_justify="left", box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    corrupted = models[0]["threat"] == "corruptions"
    for name in ("clean", "corrupted" if corrupted else "AutoAttack"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("net", "eps", "extra data", "weights"):
        table.add_column(name, no_wrap=True)
    table.add_column("paper", overflow="fold", min_width=20)
    for m in models:
        robust = m["corruptions"] if corrupted else m["autoattack"]
        worse = f" ({m['worse']:.2f})" if m["worse"] is not None else ""
        table.add_row(
            m["name"], f"{m['clean']:.2f}", f"{robust:.2f}{worse}", m["architecture"], m["eps"],
            "yes" if m["extra_data"] else "", "yes" if m["weights"] else "no", m["link"].removeprefix("https://"),
        )  # fmt: skip
    return table


def _title(entry: dict[str, Any]) -> str:
    escaped = str(entry["summary"]).replace("[", "\\[")
    return f"[bold]{entry['name']}[/]  {escaped}"
