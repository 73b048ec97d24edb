"""What is asked for, and what it means once every name is found."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from bench.errors import UsageError
from bench.exam import CLEAN, Cell, Column, Condition, Dataset, Precision, Suite, Training, Which
from bench.obtain import Lesson
from bench.official import corruption as find_corruption
from bench.outcomes import Outcome
from bench.recipe import Attack, Corruption, DatasetLoader, Defense, Recipe
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
    conditions: tuple[str, ...] = ()  # fog:3, or fog for all its severities; in place of the suite's own
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
    unfit: dict[str, tuple[str, ...]]  # corruptions of the suite that cannot be used here, by the reason
    unset: tuple[str, ...] = ()  # defenses that have presets, but none for this data set

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
        from bench.certify import with_certificates

        return with_certificates(Outcome.of(place.ledger, cell, self.n, self.threat), place.ledger, cell)

    def run_of(self, cell: Cell) -> tuple[str, ...]:
        """Cells of equal runs are answered, on the same images, by one run of the attack."""
        recipe = self.attacks[cell.attack]
        assert isinstance(recipe.plugin, Attack)
        return (cell.net, cell.weights, cell.condition, cell.precision, recipe.plugin.kin(recipe.settings) or cell.key)

    def length(self, cell: Cell) -> int:
        """The passes of its attack on an image that never falls."""
        return sum(self.passes_of(cell.attack))

    def passes_of(self, attack: str) -> tuple[int, int]:
        """Forwards and backwards of an attack on an image that never falls."""
        if attack not in self._passes:
            self._passes[attack] = passes(self.attacks[attack], self.dataset.shape)
        return self._passes[attack]

    @cached_property
    def by_condition(self) -> dict[str, tuple[str, ...]]:
        """The columns that are asked under each condition, in their order."""
        found: dict[str, list[str]] = {}
        for name, condition in self.questions:
            found.setdefault(condition, []).append(name)
        return {condition: tuple(names) for condition, names in found.items()}

    @cached_property
    def _passes(self) -> dict[str, tuple[int, int]]:
        return {}

    @cached_property
    def _terms(self) -> dict[str, tuple[str | None, Precision]]:
        """The threat and the precision of each attack's cells."""
        return {key: self._terms_of(recipe.plugin) for key, recipe in self.attacks.items()}

    def _terms_of(self, plugin: object) -> tuple[str | None, Precision]:
        assert isinstance(plugin, Attack)
        # Clean cells, and those of other plugins without norms, have no threat; those that search it have no eps.
        bounded = str(self.threat if plugin.goal == "in-ball" else self.threat.without_bound)
        return bounded if plugin.norms else None, self.precision if plugin.norms and plugin.coarse else "exact"

    def _cell(self, net: str, weights: str, attack: str, condition: str) -> Cell:
        threat, precision = self._terms[attack]
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
    explicit = bool(request.threat) and not suite.threat  # then the presets' own eps does not count
    defenses = [
        _defense(text, registry, recipe.name, net, asked=bool(request.net), explicit=explicit)
        for text in request.defenses
    ]
    dataset = place.dataset(recipe)
    suite, unfit = _usable(suite, registry, dataset, named=bool(request.conditions))
    columns, attacks, questions = _columns(suite, place, threat, dataset)
    if not defenses or not questions:
        raise UsageError(f"there is nothing to do: {'no --defense' if not defenses else 'no column'} is named")
    if request.n < 0 or request.n > len(dataset.test):
        raise UsageError(f"-n {request.n}: {dataset.name} has {len(dataset.test)} test images")
    if not len(dataset.train) and any(getattr(d.plugin, "trains", True) for d, _, _ in defenses):
        with_images = ", or name it with train=True" if "train" in recipe.settings else ""
        raise UsageError(f"{recipe} has no training images: examine weights that are there already{with_images}")
    lessons = dict.fromkeys(
        Lesson(
            Training(d.key, own.key, dataset.train.hash, dataset.val.hash, trained_for, seed),
            d.written, own.written, recipe.written, label, trained_for or loader.threat,
        )
        for d, label, own in defenses
        for trained_for in [_trained_for(d, threat)]
        for seed in (request.seeds if getattr(d.plugin, "trains", True) else (0,))
    )  # fmt: skip
    return Exam(
        dataset, recipe, threat, {own.key: own for _, _, own in defenses}, tuple(lessons),
        {d.key: d for d, _, _ in defenses}, columns, attacks, questions,
        suite.weights or request.weights or ("best",), request.n or len(dataset.test), request.attack_seed,
        request.precision, left_out, unfit,
        tuple(dict.fromkeys(d.name for d, _, _ in defenses if registry.lacks_preset(d.name, recipe.name))),
    )  # fmt: skip


def _suite(request: Request, registry: Registry) -> Suite:
    """The suite by name, or an ad-hoc one of the columns that were listed; under the conditions that were listed."""
    asked = tuple(dict.fromkeys(c for text in request.conditions for c in _severities(text)))
    if request.columns:
        return Suite("ad hoc", ((request.columns, asked or (CLEAN,)),))
    suite = registry.suite(request.suite)
    return replace(suite, parts=tuple((names, asked) for names, _ in suite.parts)) if asked else suite


def _severities(text: str) -> tuple[str, ...]:
    """A condition, or all five of a corruption whose severity is not said."""
    return (text,) if text == CLEAN or ":" in text else tuple(f"{text}:{severity}" for severity in Condition.SEVERITIES)


def _usable(
    suite: Suite, registry: Registry, dataset: Dataset, *, named: bool
) -> tuple[Suite, dict[str, tuple[str, ...]]]:
    """The suite without the corruptions that cannot spoil images of this shape here, and those, by the reason.

    One that was named on the command line is an error; so is a suite of which nothing is left.
    """
    reasons: dict[str, list[str]] = {}
    kept: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for names, conditions in suite.parts:
        fit = []
        for text in conditions:
            recipe = _corruption(text, registry, dataset)
            reason = _unfit(recipe, dataset.shape)
            if reason and named:
                raise UsageError(f"condition {text}: {reason}")
            if recipe and reason:
                reasons.setdefault(reason, []).append(str(recipe))
            else:
                fit.append(text)
        if fit:
            kept.append((names, tuple(fit)))
    if not kept and reasons:
        raise UsageError(f"nothing of suite {suite.name} is left: {'; '.join(reasons)}")
    return replace(suite, parts=tuple(kept)), {r: tuple(dict.fromkeys(names)) for r, names in reasons.items()}


def _fitting(suite: Suite, registry: Registry, threat: ThreatModel) -> tuple[Suite, tuple[str, ...]]:
    """A named suite without the columns whose attacks do not search the threat's norm, and what was left out."""

    def fits(name: str) -> bool:
        attacks = [registry.parse("attack", text).plugin for text in registry.column(name).under(threat.norm)]
        return all(not a.norms or threat.norm in a.norms for a in attacks if isinstance(a, Attack))

    out = tuple(dict.fromkeys(name for names, _ in suite.parts for name in names if not fits(name)))
    parts = tuple((tuple(n for n in names if n not in out), conditions) for names, conditions in suite.parts)
    return replace(suite, parts=parts), out


def fitting(
    suite: Suite, place: Place, threat: ThreatModel, dataset: Dataset
) -> tuple[dict[str, Column], dict[str, Recipe], tuple[tuple[str, str], ...], tuple[str, ...]]:
    """A suite's columns, attacks and questions under a threat, and the columns that do not search its norm."""
    suite, left_out = _fitting(suite, place.registry, threat)
    return *_columns(suite, place, threat, dataset), left_out


def _columns(
    suite: Suite, place: Place, threat: ThreatModel, dataset: Dataset
) -> tuple[dict[str, Column], dict[str, Recipe], tuple[tuple[str, str], ...]]:
    """The suite's columns with full attack keys, the attacks, and the questions; `clean` first where it is needed."""
    registry, shape = place.registry, dataset.shape
    columns: dict[str, Column] = {}
    attacks: dict[str, Recipe] = {}
    questions: list[tuple[str, str]] = []
    for names, conditions in suite.parts:
        found = [registry.column(name) for name in names]
        if any(c.strict for c in found):
            found = [registry.column(CLEAN), *(c for c in found if c.name != CLEAN)]
        for column in found:
            recipes = [pinned(registry.parse("attack", text), place, shape) for text in column.under(threat.norm)]
            for recipe in recipes:
                _has_classes(recipe, shape, column.name)
            attacks |= {r.key: r for r in recipes}
            columns[column.name] = replace(column, attacks=tuple(r.key for r in recipes))
        questions += [(c.name, _condition(text, registry, dataset)) for text in conditions for c in found]
    return columns, attacks, tuple(dict.fromkeys(questions))


def _find_all(suite: Suite, registry: Registry, threat: ThreatModel) -> None:
    """An error for the first corruption, column or attack that is not there, or does not search the threat's norm."""
    for text in (text for _, conditions in suite.parts for text in conditions):
        _condition(text, registry, None)
    for name in (name for names, _ in suite.parts for name in names):
        for text in registry.column(name).under(threat.norm):
            _can(registry.parse("attack", text), threat, name)


def _can(recipe: Recipe, threat: ThreatModel, column: str) -> None:
    plugin = recipe.plugin
    assert isinstance(plugin, Attack)
    if plugin.norms and threat.norm not in plugin.norms:
        raise UsageError(f"column {column}: {plugin.name} searches {', '.join(plugin.norms)}; the threat is {threat}")


def _has_classes(recipe: Recipe, shape: Shape, column: str) -> None:
    plugin = recipe.plugin
    assert isinstance(plugin, Attack)
    if shape.classes < plugin.least_classes:
        needed = f"{plugin.name} needs {plugin.least_classes} classes or more"
        raise UsageError(f"column {column}: {needed}; the data set has {shape.classes}")


def _condition(text: str, registry: Registry, dataset: Dataset | None) -> str:
    """A condition with its corruption's full key."""
    recipe = _corruption(text, registry, dataset)
    return str(Condition(recipe.key, Condition.parse(text).severity)) if recipe else CLEAN


def _unfit(recipe: Recipe | None, shape: Shape) -> str:
    """Why a corruption cannot spoil images of this shape here; empty where it can."""
    if recipe is None:
        return ""
    assert isinstance(recipe.plugin, Corruption)
    return recipe.plugin.unfit(shape) if recipe.plugin.unfit else ""


def _corruption(text: str, registry: Registry, dataset: Dataset | None) -> Recipe | None:
    """A condition's corruption; none of clean."""
    name = Condition.parse(text).corruption
    return find_corruption(name, registry, dataset) if name else None


def _defense(
    text: str, registry: Registry, dataset: str, net: Recipe, *, asked: bool, explicit: bool
) -> tuple[Recipe, str, Recipe]:  # fmt: skip
    """A defense, its label and its net.

    Settings are what was written, then the preset for this data set and net, then the defaults; pinned.  A defense
    that brings its own net has no other.
    """
    recipe, label = registry.parse_defense(text, dataset, net.name, without=("eps",) if explicit else ())
    plugin = recipe.plugin
    assert isinstance(plugin, Defense)
    recipe = recipe.with_settings(plugin.pinned(recipe.settings))
    if plugin.net is None:
        return recipe, label, net
    own = registry.parse("net", plugin.net(dict(recipe.settings)))
    if asked and own != net:
        raise UsageError(f"defense {label} brings its own net, {own}; --net {net} contradicts it")
    return recipe, label, own


def _trained_for(defense: Recipe, threat: ThreatModel) -> str:
    """The threat of a training: the exam's, with the recipe's own eps if it has one; empty where none counts."""
    plugin = defense.plugin
    assert isinstance(plugin, Defense)
    if not plugin.adversarial:
        return ""
    eps = defense.settings.get("eps")
    return str(ThreatModel.parse(f"{threat.norm}:{eps}") if eps else threat)


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
