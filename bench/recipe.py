"""What a plugin is: a function with settings and a version; a recipe is one with every setting filled in."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Generic, Literal, ParamSpec

from bench.errors import UsageError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from bench.draws import Draws
    from bench.exam import Dataset, Shape
    from bench.fetch import PublishedFile
    from bench.threat import Norm, ThreatModel
    from bench.training import TrainJob
    from bench.victim import Model

P = ParamSpec("P")
Value = bool | int | float | str | tuple["Value", ...] | None
Access = Literal["gradients", "scores", "labels"]
Goal = Literal["in-ball", "minimum-norm"]
Cost = tuple[int, int]  # forwards and backwards
Together = Callable[..., "list[Tensor]"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Plugin:
    """A function that the bench can find by name."""

    kind: ClassVar[str] = "plugin"
    given: ClassVar[frozenset[str]] = frozenset()  # keywords that the bench fills in: not settings

    name: str
    function: Callable[..., Any]
    version: int = 1
    paper: str = ""

    @cached_property
    def spread(self) -> dict[str, Any]:
        """Arguments whose default is a frozen dataclass: its fields are settings of the plugin, side by side."""
        return {p.name: p.default for p in self._keywords if is_dataclass(p.default)}

    @property
    def _keywords(self) -> list[inspect.Parameter]:
        """What the function takes by name and the bench does not fill in."""
        parameters = inspect.signature(self.function).parameters.values()
        return [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in self.given]

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Every setting with its default; `inspect.Parameter.empty` marks one that must be given."""
        found: dict[str, Any] = {}
        for p in self._keywords:
            own = {f.name: getattr(p.default, f.name) for f in fields(p.default)} if p.name in self.spread else {}
            for name, default in (own or {p.name: p.default}).items():
                if name in found:
                    raise UsageError(f"{self.kind} {self.name} has two settings called {name!r}; rename one")
                found[name] = default
        return found

    @cached_property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """The values allowed for each setting that is annotated with a Literal."""
        annotated = [(p.name, p.annotation) for p in self._keywords]
        annotated += [(f.name, f.type) for default in self.spread.values() for f in fields(default)]
        found = {}
        for name, text in annotated:
            if isinstance(text, str) and text.startswith("Literal["):
                found[name] = tuple(ast.literal_eval(f"({text[len('Literal[') : -1]},)"))
        return found

    @property
    def hidden(self) -> tuple[str, ...]:
        """Settings that say where, not what: they are in no key."""
        own: tuple[str, ...] = getattr(self, "unkeyed", ())
        return own + tuple(name for default in self.spread.values() for name in getattr(default, "unkeyed", ()))

    def arguments(self, settings: Mapping[str, Value]) -> dict[str, Any]:
        """Settings as the function takes them: those that were spread are gathered again."""
        flat: dict[str, Any] = dict(settings)
        for name, default in self.spread.items():
            whole = flat[name] if is_dataclass(flat.get(name)) else default  # a field may have the argument's name
            own = [f.name for f in fields(default) if f.name in flat and flat[f.name] is not whole]
            flat[name] = replace(whole, **{field: flat.pop(field) for field in own})
        return flat

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def where(self) -> str:
        """The module and the function, for messages."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def recipe(self, **settings: Value) -> Recipe:
        """This plugin with these settings and the defaults of the others; errors name the nearest setting."""
        for name in settings:
            if name not in self.defaults:
                raise UsageError(f"{self.name} has no setting {name!r}{nearest(name, self.defaults)}")
        filled = {}
        for name, default in self.defaults.items():
            if name in settings:
                filled[name] = self._fit(name, settings[name], default)
            elif default is inspect.Parameter.empty:
                raise UsageError(f"{self.name} needs a setting: {self.name}({name}=…)")
            else:
                filled[name] = default
        self.arguments(filled)  # what they say together is checked where they are gathered
        return Recipe(self, filled)

    def _fit(self, name: str, value: Value, default: object) -> Value:
        """The value in the setting's own type, or an error that says what was expected."""
        allowed = self.choices.get(name)
        if allowed is not None and value not in allowed:
            hint = nearest(value, [str(a) for a in allowed]) if isinstance(value, str) else ""
            raise UsageError(f"{self.name}({name}={value!r}): expected one of {', '.join(map(repr, allowed))}{hint}")
        if default is inspect.Parameter.empty and not self._annotated(name, value):
            expected = next(p.annotation for p in self._keywords if p.name == name)
            raise UsageError(f"{self.name}({name}={value!r}): expected {expected}")
        if default is None or default is inspect.Parameter.empty:
            return value
        if type(default) is int and default > 0 and type(value) is int and value < 0:
            raise UsageError(f"{self.name}({name}={value!r}): expected a count, which is not negative")
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if type(default) is not type(value) and not (default == () and isinstance(value, tuple)):
            raise UsageError(
                f"{self.name}({name}={value!r}): expected {type(default).__name__}, as in the default {default!r}"
            )
        return value

    def _annotated(self, name: str, value: Value) -> bool:
        """Whether a value is of the plain type that a setting without a default is annotated with, if it is."""
        said = {p.name: p.annotation for p in self._keywords}.get(name)
        expected = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}.get(str(said))
        return expected is None or type(value) in expected


@dataclass(frozen=True, eq=False, kw_only=True)
class Attack(Plugin, Generic[P]):
    """A function that gives images: (model, x, y, threat, draws, *, settings) to x_adv, shaped as x."""

    kind: ClassVar[str] = "attack"

    norms: tuple[Norm, ...]
    access: Access
    goal: Goal = "in-ball"
    cost: Callable[..., Cost] | None = None  # settings to forwards and backwards of an image that never falls
    together: tuple[str, Together] | None = None  # a setting, and a function that answers several of its values at once
    surrogates: tuple[str, ...] = ()  # settings that name the weights of models, which the function is given
    coarse: bool = True  # whether it may search in lower precision: it does not measure how far the boundary is
    zero: tuple[str, ...] = ()  # settings that may be 0 although their defaults are not
    check: Callable[..., None] | None = None  # raises UsageError for settings that do not go together
    least_classes: int = 2  # of a data set that it can attack
    stand_ins: bool = False  # layers that hide their gradient have the identity's

    def recipe(self, **settings: Value) -> Recipe:
        """As every plugin's; and settings with which it could do nothing are an error."""
        found = super().recipe(**settings)
        if self.check is not None:
            try:
                self.check(**found.settings)
            except UsageError as error:
                raise UsageError(f"{self.name}: {error}") from None
        return found

    def _fit(self, name: str, value: Value, default: object) -> Value:
        """As every plugin's; where the default is no negative number, none is taken, nor 0 where it is positive."""
        fitted = super()._fit(name, value, default)
        if type(default) not in (int, float) or not isinstance(fitted, int | float) or default < 0:  # type: ignore[operator]
            return fitted
        may_be_zero = name in self.zero or not default
        if fitted < 0 or (not fitted and not may_be_zero):
            expected = "0 or more" if may_be_zero else "1 or more" if type(default) is int else "more than 0"
            raise UsageError(f"{self.name}({name}={value!r}): expected {expected}")
        return fitted

    def kin(self, settings: Mapping[str, Value]) -> str:
        """Recipes of equal kin are answered by one run; empty where that is none of this attack's."""
        if self.together is None:
            return ""
        return f"{self.name}@{self.version}{sorted((k, v) for k, v in settings.items() if k != self.together[0])!r}"

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *args: P.args, **settings: P.kwargs
    ) -> Tensor:
        """Run it, as one would call the plain function."""
        attacked: Tensor = self.function(model, x, y, threat, draws, *args, **settings)
        return attacked


@dataclass(frozen=True, eq=False, kw_only=True)
class Defense(Plugin):
    """A function that gives a model: (job, *, settings) to a module of the job's net."""

    kind: ClassVar[str] = "defense"

    pin: Callable[[dict[str, Any]], dict[str, Any]] | None = None  # fills in what the machine knows (a file's hash)
    unkeyed: tuple[str, ...] = ()  # settings that say where, not what
    trains: bool = True  # False where weights are fetched, not made
    adversarial: bool = True  # False where the weights do not depend on the threat
    net: Callable[[dict[str, Any]], str] | None = None  # its settings to the recipe of the net that it brings

    def __call__(self, job: TrainJob, **settings: Any) -> nn.Module:
        """Run it."""
        model: nn.Module = self.function(job, **self.arguments(settings))
        return model

    def pinned(self, settings: Mapping[str, Value]) -> dict[str, Any]:
        """The settings with what the machine knows of them, as the hash of a file."""
        found: dict[str, Any] = dict(settings)
        for default in self.spread.values():
            found = default.pin(found) if hasattr(default, "pin") else found
        return found if self.pin is None else self.pin(found)


@dataclass(frozen=True, eq=False, kw_only=True)
class Net(Plugin):
    """A function that gives an untrained module: (*, classes, channels, size, settings)."""

    kind: ClassVar[str] = "net"
    given: ClassVar[frozenset[str]] = frozenset({"classes", "channels", "size"})

    random: bool = False  # the forward pass draws random numbers: judged by the majority of 20

    def __call__(self, *, classes: int, channels: int, size: int, **settings: Value) -> nn.Module:
        """Build it."""
        model: nn.Module = self.function(classes=classes, channels=channels, size=size, **settings)
        return model


@dataclass(frozen=True, eq=False, kw_only=True)
class Corruption(Plugin):
    """A function that spoils images: (x, severity, draws, *, settings) to images, shaped as x."""

    kind: ClassVar[str] = "corruption"

    unfit: Callable[[Shape], str] | None = None  # why images of a shape cannot be spoilt here; empty where they can

    def __call__(self, x: Tensor, severity: int, draws: Draws, **settings: Value) -> Tensor:
        """Run it."""
        spoilt: Tensor = self.function(x, severity, draws, **settings)
        return spoilt


@dataclass(frozen=True, eq=False, kw_only=True)
class DatasetLoader(Plugin):
    """A function that gives a Dataset from the folder of all data: (root, *, settings)."""

    kind: ClassVar[str] = "dataset"

    net: str = ""  # the net that is trained on it by default
    threat: str = ""  # the default threat
    downloads: tuple[PublishedFile, ...] = ()  # its published files

    def __call__(self, root: Path, **settings: Value) -> Dataset:
        """Load it."""
        loaded: Dataset = self.function(root, **settings)
        return loaded


@dataclass(frozen=True, eq=False)
class Recipe:
    """A plugin and all its settings: what to run, written down in full.  Two are equal when they read the same."""

    plugin: Plugin
    settings: Mapping[str, Value]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and (self.plugin.kind, self.written) == (other.plugin.kind, other.written)

    def __hash__(self) -> int:
        return hash((self.plugin.kind, self.written))

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.plugin.name

    @property
    def key(self) -> str:
        """The full text that names it in a record: version and every setting that says what, defaults included."""
        hidden = self.plugin.hidden
        inner = ", ".join(f"{k}={v!r}" for k, v in sorted(self.settings.items()) if k not in hidden)
        return f"{self.name}@{self.plugin.version}({inner})"

    @property
    def written(self) -> str:
        """The full text that reads back to this recipe here: also the settings that say where."""
        inner = ", ".join(f"{k}={v!r}" for k, v in sorted(self.settings.items()))
        return f"{self.name}@{self.plugin.version}({inner})"

    def __str__(self) -> str:
        """The short text: only what differs from the defaults; files by their bare name."""
        return self.short(self.plugin.defaults)

    def short(self, usual: Mapping[str, object]) -> str:
        """The short text: only what differs from the usual settings."""
        hidden = self.plugin.hidden
        changed = {k: v for k, v in self.settings.items() if v != usual[k]}
        inner = ", ".join(f"{k}={PurePath(str(v)).name if k in hidden else v!r}" for k, v in changed.items())
        return f"{self.name}({inner})" if inner else self.name

    def with_settings(self, settings: Mapping[str, Value]) -> Recipe:
        """The same plugin with some settings replaced."""
        return replace(self, settings={**self.settings, **settings})


@dataclass(frozen=True)
class Alias:
    """Another name for a recipe: `wrn-34-10` for `wrn(depth=34, width=10)`."""

    kind: str
    name: str
    recipe: str


@dataclass(frozen=True)
class Preset:
    """Settings of a defense on a data set (and net), with where they come from.

    One without a name is what the defense means there; one with a name is asked for: `at(preset='rice')`.
    """

    defense: str
    dataset: str
    settings: Mapping[str, Value]
    source: str
    net: str = "*"  # the net's name; * is any
    name: str = ""


_AttackFunction = Callable[Concatenate["Model", "Tensor", "Tensor", "ThreatModel", "Draws", P], "Tensor"]


def attack(
    *,
    norms: tuple[Norm, ...],
    access: Access,
    goal: Goal = "in-ball",
    paper: str = "",
    version: int = 1,
    cost: Callable[..., Cost] | None = None,
    together: tuple[str, Together] | None = None,
    surrogates: tuple[str, ...] = (),
    coarse: bool = True,
    zero: tuple[str, ...] = (),
    check: Callable[..., None] | None = None,
    least_classes: int = 2,
    stand_ins: bool = False,
    name: str = "",
) -> Callable[[_AttackFunction[P]], Attack[P]]:
    """Make a function an attack.

    norms: the balls it can search.  access: what it may ask the model (enforced).
    cost: its settings, and the model's number of classes if it has an argument `all_classes`, to the forwards and
    backwards spent on an image that never falls.
    coarse: whether --precision fast may search in lower precision; not where distances to the boundary are measured.
    together: a setting such as `steps`, whose smaller values are how a run of larger ones begins, and a function like
    the attack's that is given a tuple of its values and gives the images of each, exactly those of a run of its own.
    surrogates: settings that name weights in the ledger; the function is given their model, with gradients.
    zero: settings that may be 0; no other number may whose default is positive.  None may be negative whose default
    is not.
    check: given all settings, raises UsageError where they do not go together.
    least_classes: of a data set; with fewer it is refused before any work.
    stand_ins: whether it differentiates the identity in the place of layers that hide their gradient.
    version: raise it when its answers change.
    """

    def wrap(function: _AttackFunction[P]) -> Attack[P]:
        return Attack(
            name=_name(function, name), function=function, version=version, paper=paper,
            norms=norms, access=access, goal=goal, cost=cost, coarse=coarse and goal == "in-ball",
            surrogates=surrogates, together=together, zero=zero, check=check, least_classes=least_classes,
            stand_ins=stand_ins,
        )  # fmt: skip

    return wrap


def defense(
    *,
    paper: str = "",
    version: int = 1,
    pin: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    unkeyed: tuple[str, ...] = (),
    trains: bool = True,
    adversarial: bool = True,
    net: Callable[[dict[str, Any]], str] | None = None,
    name: str = "",
) -> Callable[[Callable[..., nn.Module]], Defense]:
    """Make a function a defense.

    trains: whether it makes weights, or fetches them.  adversarial: whether they depend on the threat; those that do
    not are made once, whatever they are examined under.  version: raise it when the weights change.
    net: where the weights are those of a net of their own, its settings to that net's recipe; --net is then not needed.
    """

    def wrap(function: Callable[..., nn.Module]) -> Defense:
        return Defense(
            name=_name(function, name), function=function, version=version, paper=paper,
            pin=pin, unkeyed=unkeyed, trains=trains, adversarial=adversarial and trains, net=net,
        )  # fmt: skip

    return wrap


def net(
    *, random: bool = False, paper: str = "", version: int = 1, name: str = ""
) -> Callable[[Callable[..., nn.Module]], Net]:
    """Make a function a net."""

    def wrap(function: Callable[..., nn.Module]) -> Net:
        return Net(name=_name(function, name), function=function, version=version, paper=paper, random=random)

    return wrap


def corruption(
    *, paper: str = "", version: int = 1, unfit: Callable[[Shape], str] | None = None
) -> Callable[[Callable[..., Tensor]], Corruption]:
    """Make a function a corruption; its name keeps the underscores, as the field writes them.

    unfit: why it cannot spoil images of a shape, or not on this machine; a suite then goes on without it and says so.
    """

    def wrap(function: Callable[..., Tensor]) -> Corruption:
        return Corruption(name=function.__name__, function=function, version=version, paper=paper, unfit=unfit)

    return wrap


def dataset(
    *,
    net: str = "cnn",
    threat: str,
    downloads: tuple[PublishedFile, ...] = (),
    paper: str = "",
    version: int = 1,
    name: str = "",
) -> Callable[[Callable[..., Dataset]], DatasetLoader]:
    """Make a function a loader of a data set; `downloads` are its published files, for bench fetch."""

    def wrap(function: Callable[..., Dataset]) -> DatasetLoader:
        return DatasetLoader(
            name=_name(function, name), function=function, version=version, paper=paper, net=net, threat=threat,
            downloads=downloads,
        )  # fmt: skip

    return wrap


def _name(function: Callable[..., Any], name: str) -> str:
    return name or function.__name__.replace("_", "-")
