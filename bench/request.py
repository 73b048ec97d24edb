"""What is asked for, and what it means once every name is found."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.errors import UsageError
from bench.exam import CLEAN, Cell, Column, Condition, Dataset, Precision, Suite, Training, Which
from bench.obtain import Lesson
from bench.outcomes import Outcome
from bench.recipe import Attack, DatasetLoader, Defense, Recipe
from bench.registry import Registry
from bench.surrogates import pinned
from bench.threat import ThreatModel

if TYPE_CHECKING:
    from bench.exam import Shape
    from bench.place import Place


@dataclass(frozen=True)
class Request:
    """What the command line asked for, in its own words; empty means the default."""

    defenses: tuple[str, ...]
    net: str = ""
    dataset: str = "digits"
    threat: str = ""
    seeds: tuple[int, ...] = (0,)
    suite: str = "quick"
    columns: tuple[str, ...] = ()
    n: int = 0
    weights: tuple[Which, ...] = ()
    attack_seed: int = 0
    precision: Precision = "exact"


@dataclass(frozen=True, eq=False)
class Exam:
    """A request whose every name was found."""

    dataset: Dataset
    dataset_recipe: Recipe
    threat: ThreatModel
    nets: dict[str, Recipe]  # by key
    lessons: tuple[Lesson, ...]
    defenses: dict[str, Recipe]  # by key
    columns: dict[str, Column]  # with their attacks' keys
    attacks: dict[str, Recipe]  # by key
    questions: tuple[tuple[str, str], ...]  # (column, condition), clean first
    weights: tuple[Which, ...]
    n: int
    attack_seed: int
    precision: Precision
    left_out: tuple[str, ...]  # columns of the suite that do not search the threat's norm

    def cells(self, net: str, weights: str, column: str, condition: str) -> list[Cell]:
        """What a column asks of some weights under a condition: a cell for each of its attacks."""
        return [self._cell(net, weights, key, condition) for key in self.columns[column].attacks]

    def clean(self, place: Place, net: str, weights: str, condition: str) -> Outcome:
        """Which images clean lost to begin with; none where it is not asked."""
        if CLEAN not in self.columns:
            return Outcome.nothing(self.n)
        (cell,) = self.cells(net, weights, CLEAN, condition)
        return self.outcome(place, cell)

    def outcome(self, place: Place, cell: Cell) -> Outcome:
        """What the ledger says of a cell under the exam's threat."""
        return Outcome.of(place.ledger, cell, self.n, self.threat)

    def run_of(self, cell: Cell) -> tuple[str, ...]:
        """Cells of equal runs are answered, on the same images, by one run of the attack."""
        recipe = self.attacks[cell.attack]
        assert isinstance(recipe.plugin, Attack)
        return (cell.net, cell.weights, cell.condition, cell.precision, recipe.plugin.kin(recipe.settings) or cell.key)

    def length(self, cell: Cell) -> int:
        """The passes of its attack on an image that never falls."""
        return sum(passes(self.attacks[cell.attack], self.dataset.shape))

    def _cell(self, net: str, weights: str, attack: str, condition: str) -> Cell:
        plugin = self.attacks[attack].plugin
        assert isinstance(plugin, Attack)
        # Clean cells, and those of other plugins without norms, have no threat; those that search it have no eps.
        bounded = str(self.threat if plugin.goal == "in-ball" else self.threat.without_bound)
        threat = bounded if plugin.norms else None
        precision = self.precision if plugin.norms and plugin.coarse else "exact"
        return Cell(net, weights, self.dataset.test.hash, condition, threat, attack, self.attack_seed, precision)


def resolve(request: Request, place: Place) -> Exam:
    """Find everything that a request names, before any work; errors name the nearest."""
    registry = place.registry
    recipe = registry.parse("dataset", request.dataset)
    loader = recipe.plugin
    assert isinstance(loader, DatasetLoader)
    suite = _suite(request, registry)
    threat = ThreatModel.parse(suite.threat or request.threat or loader.threat)
    if suite.threat and request.threat and ThreatModel.parse(request.threat) != threat:
        raise UsageError(f"suite {suite.name} fixes the threat {threat}; --threat {request.threat} contradicts it")
    if suite.weights and request.weights and request.weights != suite.weights:
        asked, fixed = ",".join(request.weights), ",".join(suite.weights)
        raise UsageError(f"suite {suite.name} fixes the weights {fixed}; --weights {asked} contradicts it")
    left_out: tuple[str, ...] = ()
    if not request.columns:
        suite, left_out = _fitting(suite, registry, threat)
    _find_all(suite, registry, threat)
    net = registry.parse("net", request.net or loader.net)
    defenses = [_defense(text, registry, recipe.name, net, asked=bool(request.net)) for text in request.defenses]
    dataset = place.dataset(recipe)
    columns, attacks, questions = _columns(suite, place, threat, dataset.shape)
    if not defenses or not questions:
        raise UsageError(f"there is nothing to do: {'no --defense' if not defenses else 'no column'} is named")
    if request.n < 0 or request.n > len(dataset.test):
        raise UsageError(f"-n {request.n}: {dataset.name} has {len(dataset.test)} test images")
    lessons = dict.fromkeys(
        Lesson(
            Training(d.key, own.key, dataset.train.hash, dataset.val.hash, str(threat), seed),
            d.written, own.written, recipe.written, label,
        )
        for d, label, own in defenses
        for seed in (request.seeds if getattr(d.plugin, "trains", True) else (0,))
    )  # fmt: skip
    return Exam(
        dataset, recipe, threat, {own.key: own for _, _, own in defenses}, tuple(lessons),
        {d.key: d for d, _, _ in defenses}, columns, attacks, questions,
        suite.weights or request.weights or ("best",), request.n or len(dataset.test), request.attack_seed,
        request.precision, left_out,
    )  # fmt: skip


def _suite(request: Request, registry: Registry) -> Suite:
    """The suite by name, or an ad-hoc one of the columns that were listed."""
    if request.columns:
        return Suite("ad hoc", ((request.columns, (CLEAN,)),))
    return registry.suite(request.suite)


def _fitting(suite: Suite, registry: Registry, threat: ThreatModel) -> tuple[Suite, tuple[str, ...]]:
    """A named suite without the columns whose attacks do not search the threat's norm, and what was left out."""

    def fits(name: str) -> bool:
        attacks = [registry.parse("attack", text).plugin for text in registry.column(name).under(threat.norm)]
        return all(not a.norms or threat.norm in a.norms for a in attacks if isinstance(a, Attack))

    out = tuple(dict.fromkeys(name for names, _ in suite.parts for name in names if not fits(name)))
    parts = tuple((tuple(n for n in names if n not in out), conditions) for names, conditions in suite.parts)
    return replace(suite, parts=parts), out


def _columns(
    suite: Suite, place: Place, threat: ThreatModel, shape: Shape
) -> tuple[dict[str, Column], dict[str, Recipe], tuple[tuple[str, str], ...]]:
    """The suite's columns with full attack keys, the attacks, and the questions; `clean` first where it is needed."""
    registry = place.registry
    columns: dict[str, Column] = {}
    attacks: dict[str, Recipe] = {}
    questions: list[tuple[str, str]] = []
    for names, conditions in suite.parts:
        found = [registry.column(name) for name in names]
        if any(c.strict for c in found):
            found = [registry.column(CLEAN), *(c for c in found if c.name != CLEAN)]
        for column in found:
            recipes = [pinned(registry.parse("attack", text), place, shape) for text in column.under(threat.norm)]
            attacks |= {r.key: r for r in recipes}
            columns[column.name] = replace(column, attacks=tuple(r.key for r in recipes))
        questions += [(c.name, _condition(text, registry)) for text in conditions for c in found]
    return columns, attacks, tuple(dict.fromkeys(questions))


def _find_all(suite: Suite, registry: Registry, threat: ThreatModel) -> None:
    """An error for the first column or attack that is not there, or does not search the threat's norm."""
    for name in (name for names, _ in suite.parts for name in names):
        for text in registry.column(name).under(threat.norm):
            _can(registry.parse("attack", text), threat, name)


def _can(recipe: Recipe, threat: ThreatModel, column: str) -> None:
    plugin = recipe.plugin
    assert isinstance(plugin, Attack)
    if plugin.norms and threat.norm not in plugin.norms:
        raise UsageError(f"column {column}: {plugin.name} searches {', '.join(plugin.norms)}; the threat is {threat}")


def _condition(text: str, registry: Registry) -> str:
    """A condition with its corruption's full key."""
    condition = Condition.parse(text)
    if not condition.corruption:
        return CLEAN
    return str(Condition(registry.parse("corruption", condition.corruption).key, condition.severity))


def _defense(
    text: str, registry: Registry, dataset: str, net: Recipe, *, asked: bool
) -> tuple[Recipe, str, Recipe]:  # fmt: skip
    """A defense, its label and its net.

    Settings are what was written, then the preset for this data set and net, then the defaults; pinned.  A defense
    that brings its own net has no other.
    """
    recipe, label = registry.parse_defense(text, dataset, net.name)
    plugin = recipe.plugin
    assert isinstance(plugin, Defense)
    if plugin.pin is not None:
        recipe = recipe.with_settings(plugin.pin(dict(recipe.settings)))
    if plugin.net is None:
        return recipe, label, net
    own = registry.parse("net", plugin.net(dict(recipe.settings)))
    if asked and own != net:
        raise UsageError(f"defense {label} brings its own net, {own}; --net {net} contradicts it")
    return recipe, label, own


def passes(attack: Recipe, shape: Shape) -> tuple[int, int]:
    """Forwards and backwards of an image that never falls, the judge's included."""
    plugin = attack.plugin
    assert isinstance(plugin, Attack)
    if plugin.cost is None:
        return 1, 0
    try:
        facts = {"all_classes": shape.classes} if "all_classes" in inspect.signature(plugin.cost).parameters else {}
        forwards, backwards = plugin.cost(**attack.settings, **facts)
        return int(forwards) + 1, int(backwards)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"attack {plugin.name}: its cost must take its settings and give (forwards, backwards): {error}"
        ) from error
