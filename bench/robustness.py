"""What the pytest fixture does: a model is examined in a folder of its own, and set beside a baseline."""

from __future__ import annotations

import copy
import hashlib
import inspect
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench import baseline
from bench.errors import UsageError
from bench.executors import Inline
from bench.files import locked
from bench.gate import Comparison, Report, Rules, check_order, compare
from bench.gate_report import said, verdict
from bench.place import Place, pick_batch, pick_device
from bench.recipe import Defense, Net, Plugin
from bench.registry import Registry, split_list
from bench.request import Request, resolve
from bench.run import run
from bench.standing import Standing, Standings
from bench.store import Store
from bench.training import TrainJob

ELSEWHERE = ("git:", "https://", "http://")  # baselines that cannot be written
SHOWN = 12  # lost images that a message names


@dataclass(frozen=True)
class Scene:
    """Where a test runs: an empty folder for its records, the folder of the project, and what pytest was asked."""

    folder: Path
    project: Path
    data: Path
    device: str
    update: bool
    say: Callable[[str], None]


@dataclass(frozen=True)
class Home(Place):
    """A place with plugins that exist in this process alone: the model that a test gave, and its net."""

    given: tuple[Plugin, ...] = ()

    @property
    def registry(self) -> Registry:
        """All plugins, and these."""
        found = super().registry
        return replace(found, things=found.things | {(p.kind, p.name): p for p in self.given})


def examine(
    scene: Scene, model: nn.Module | str, name: str, *, dataset: str = "digits", suite: str = "quick", net: str = "",
    threat: str = "", columns: str = "", conditions: str = "", n: int = 0, seeds: Sequence[int] = (0,),
    attack_seed: int = 0, plugin: Sequence[str] = (), random: bool = False,
) -> Robustness:  # fmt: skip
    """Attack a model, and say what stands.  random: the module draws random numbers in its forward pass."""
    given: tuple[Plugin, ...] = ()
    defense = model
    if isinstance(model, nn.Module):
        module = _copy(model)
        weights = Store(scene.folder / "store").put(module.state_dict())
        given = (_as_defense(module, name, weights), *(() if net else (_as_net(module, random=random),)))
        defense, net = name, net or given[-1].name
    if not isinstance(defense, str):
        raise UsageError(f"robustness({type(model).__name__}): expected a torch module, or a defense as text")
    device = pick_device(scene.device)
    place = Home(
        scene.folder / "ledger", scene.folder / "store", scene.data,
        tuple(str((scene.project / file).resolve()) for file in plugin), device, pick_batch(device), given=given,
    )  # fmt: skip
    request = Request(
        defenses=(defense,), net=net, dataset=dataset, threat=threat, seeds=tuple(seeds), suite=suite,
        columns=tuple(split_list(columns)), conditions=tuple(split_list(conditions)), n=n, attack_seed=attack_seed,
    )  # fmt: skip
    with _alone():
        exam = resolve(request, place)
        summary = run(exam, place, Inline(), report=lambda _line: None)
    if summary.failures:
        raise summary.failures[0]
    lesson = exam.lessons[0]
    found = Standings.of(place.ledger)
    asked = [s for s in found.every if s.model.defense == lesson.label and s.model.which in exam.weights]
    mine = replace(found, every=tuple(asked))
    return Robustness(mine, place, scene)


@dataclass(frozen=True)
class Robustness:
    """What was found of one model."""

    standings: Standings
    place: Place
    scene: Scene

    @property
    def accuracies(self) -> dict[str, float]:
        """The share of images that stand, by column; of several seeds or conditions the least."""
        found: dict[str, float] = {}
        for s in self.standings.every:
            found[s.column] = min(found.get(s.column, 1.0), 1 - len(s.fell) / s.n)
        return found

    def no_worse_than(self, where: str, **rules: Any) -> Report:
        """The report; AssertionError where a column became worse than in this baseline.

        where: a file, seen from the project's root, git:REF:PATH or https://….  rules: max_drop, alpha, strict,
        sequential, no_doubts, forbidden, max_cost_rise, as the options of `bench gate`.
        """
        __tracebackhide__ = True
        where = where if where.startswith(ELSEWHERE) else str(self.scene.project / where)
        asked = _rules(rules)
        if self.scene.update:
            self._record(where)
        known = baseline.read(where)
        if known is None:
            raise AssertionError(f"there is no baseline at {where} yet; pytest --rampart-update records it")
        report = compare(self._mine(known), self.standings, asked)
        if report.rules.sequential:
            check_order(report, self.place.ledger)
        if report.missing or report.exit_code:
            raise AssertionError(_message(report, where))
        return report

    def _mine(self, known: Standings) -> Standings:
        """What a baseline says of this model."""
        (name,) = {s.model.defense for s in self.standings.every}
        kept = {
            part: tuple(e for e in getattr(known, part) if (e.model if part == "every" else e).defense == name)
            for part in ("every", "costs")
        }
        return replace(known, **kept)

    def _record(self, where: str) -> None:
        """Put this model's entries into a baseline in place of those it has."""
        if where.startswith(ELSEWHERE):
            raise UsageError(f"--rampart-update cannot write {where}; name a file")
        path = Path(where)
        name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
        with locked(Path(tempfile.gettempdir()) / f"rampart-{name}.lock"):  # other workers of this test run
            known = baseline.read(where) or Standings(())
            old = self._mine(known)
            every = (*(s for s in known.every if s not in old.every), *self.standings.every)
            costs = (*(c for c in known.costs if c not in old.costs), *self.standings.costs)
            path.parent.mkdir(parents=True, exist_ok=True)
            baseline.record(Standings(tuple(sorted(every, key=str)), costs=tuple(sorted(costs, key=str))), path)
        self.scene.say(f"rampart: {path}: recorded {self.standings.every[0].model}")


def _rules(given: dict[str, Any]) -> Rules:
    try:
        return Rules(**given)
    except TypeError:
        known = ", ".join(Rules.__dataclass_fields__)
        raise UsageError(f"no_worse_than has no rule among {', '.join(given)} but {known}") from None


def _message(report: Report, where: str) -> str:
    """Why it failed: the worst column first, with the images that were lost."""
    lacking = "The baseline has columns that were not asked now."
    lines = [f"{verdict(report) if report.exit_code else lacking}  Baseline: {where}"]
    for c in (*report.regressed, *report.inconclusive):
        lines += [f"  {c.verdict}: {_column(c.now[0])}: {said(c)}", *_lost(c)]
    lines += [f"  not to be trusted: {_column(c.now[0])}" for c in report.untrusted]
    if held := [_column(c.now[0]) for c in report.comparisons if c.verdict in {"held", "no worse"}]:
        lines.append(f"  {'no worse' if report.rules.sequential else 'held'}: {', '.join(held)}")
    lines += [f"  missing, and in the baseline: {_column(s)}" for s in report.missing]
    lines += [f"  not in the baseline: {_column(s)}" for s in report.new]
    lines += [f"  forbidden doubt: {what}: {doubt}" for what, doubt in report.doubts]
    lines += [f"  new doubt: {what}: {doubt}" for what, doubt in report.fresh]
    lines += [f"  cost: {r.what}: {r.before:,.0f} before, {r.now:,.0f} now" for r in report.dearer]
    return "\n".join([*lines, "  if this is meant: pytest --rampart-update"])


def _column(s: Standing) -> str:
    return str(s).removeprefix(f"{s.model}, ")


def _lost(c: Comparison) -> Iterator[str]:
    """The images that stood before and fall now."""
    if lost := c.lost_images:
        more = f" and {len(lost) - SHOWN:,} more" if len(lost) > SHOWN else ""
        yield f"    lost: test images {', '.join(map(str, lost[:SHOWN]))}{more}"


def _copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU: the test's own is left as it is."""
    try:
        return copy.deepcopy(model).cpu().requires_grad_(True)
    except Exception as error:
        raise UsageError(f"the module {type(model).__name__} cannot be copied: {error!r}") from error


def _as_defense(module: nn.Module, name: str, weights: str) -> Defense:
    """A defense that gives this module; the hash of its weights is in its key."""

    def given(_job: TrainJob, *, weights: str = weights) -> nn.Module:
        """The module that a test gave."""
        return module

    return Defense(name=name, function=given, adversarial=False, trains=False)


def _as_net(module: nn.Module, *, random: bool) -> Net:
    """A net that builds copies of this module; the source of its classes is in its key."""
    source = hashlib.sha256(repr(module).encode())
    for kind in sorted({type(m) for m in module.modules()}, key=lambda k: (k.__module__, k.__qualname__)):
        if not kind.__module__.startswith("torch."):
            try:
                source.update(inspect.getsource(kind).encode())
            except (OSError, TypeError):  # typed at a prompt
                source.update(kind.__qualname__.encode())

    def build(*, classes: int, channels: int, size: int, source: str = source.hexdigest()) -> nn.Module:
        """A copy of the module that a test gave."""
        return copy.deepcopy(module)

    name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", type(module).__name__)
    return Net(name=name, function=build, random=random)


@contextmanager
def _alone() -> Iterator[None]:
    """The threads and random numbers of the test are left as they are."""
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)
