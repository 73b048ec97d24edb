"""Finding plugins: built-ins, installed packages and lone files come through the same door."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import math
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from bench.canary import Canary
from bench.errors import UsageError, nearest
from bench.exam import Column, Regions, Study, Suite
from bench.recipe import Alias, Attack, Plugin, Preset, Recipe, Value
from bench.zoo import Zoo

GROUP = "bench.plugins"
_RECIPE = re.compile(r"\s*([A-Za-z0-9_.+-]+)(?:@(\d+))?\s*(?:\((.*)\))?\s*", re.DOTALL)


@dataclass
class Registry:
    """Everything that was found, by kind and name."""

    things: dict[tuple[str, str], object] = field(default_factory=dict)
    origins: dict[tuple[str, str], str] = field(default_factory=dict)
    presets: list[Preset] = field(default_factory=list)

    def collect(self, module: ModuleType) -> None:
        """Take in what a module holds; another thing of a taken name is an error that names both."""
        for thing in list(vars(module).values()):
            match thing:
                case Plugin() if thing.function.__module__ == module.__name__:
                    self._add(thing.kind, thing.name, thing, thing.where)
                case Column() | Regions() | Suite() | Study():
                    kind = type(thing).__name__.lower()
                    self._add(kind, thing.name, thing, f"{module.__name__} ({kind} {thing.name})")
                case Zoo():
                    self._add("zoo", thing.name, thing, f"{module.__name__} (zoo {thing.name})")
                case Alias():
                    self._add(thing.kind, thing.name, thing, f"{module.__name__} (alias {thing.name})")
                case tuple() if thing and all(isinstance(t, Preset) for t in thing):
                    self.presets += thing
                case tuple() if thing and all(isinstance(t, Canary) for t in thing):
                    for canary in thing:
                        self._add("canary", canary.name, canary, f"{module.__name__} (canary {canary.name})")

    def add(self, plugin: Plugin, origin: str) -> None:
        """Take in a plugin that no module here holds."""
        self._add(plugin.kind, plugin.name, plugin, origin)

    def _add(self, kind: str, name: str, thing: object, origin: str) -> None:
        place = (kind, name)
        if place in self.things and self.things[place] != thing:
            raise UsageError(f"two {kind}s are called {name!r}: {self.origins[place]} and {origin}; rename one")
        self.things[place], self.origins[place] = thing, origin

    def names(self, kind: str) -> list[str]:
        """All names of a kind, sorted."""
        return sorted(n for k, n in self.things if k == kind)

    def all(self, kind: str) -> Iterator[object]:
        """All things of a kind, by name."""
        for name in self.names(kind):
            yield self.things[kind, name]

    def parse(self, kind: str, text: str) -> Recipe:
        """`trades(beta=3.0)` to a Recipe; settings are literals and are never evaluated."""
        name, version, written = split_recipe(text)
        plugin, aliased = self._base(kind, name, version, text)
        return plugin.recipe(**{**aliased, **written})

    def _base(self, kind: str, name: str, version: int | None, text: str) -> tuple[Plugin, dict[str, Value]]:
        """The plugin of a name, and the settings that the name stands for where it is an alias."""
        thing = self._find(kind, name)
        if isinstance(thing, Alias):
            base = self.parse(kind, thing.recipe)
            return base.plugin, {k: v for k, v in base.settings.items() if v != base.plugin.defaults[k]}
        assert isinstance(thing, Plugin)
        if version is not None and version != thing.version:
            raise UsageError(f"{kind} {name} is at version {thing.version} here; {text!r} asks for version {version}")
        return thing, {}

    def parse_defense(
        self, text: str, dataset: str, net: str, without: Iterable[str] = ()
    ) -> tuple[Recipe, str]:  # fmt: skip
        """A defense's recipe, and its short text.

        What is not written comes from the presets of this data set and net, then from the defaults; the short text
        shows what differs from those.  `preset='name'` asks for a preset by name.  without: settings of presets that
        do not count.
        """
        name, version, written = split_recipe(text)
        asked = str(written.pop("preset", ""))
        plugin, aliased = self._base("defense", name, version, text)
        preset = self.preset(plugin.name, dataset, net, asked)
        usual = {**plugin.defaults, **{k: v for k, v in preset.items() if k not in without}}
        known = {k: v for k, v in usual.items() if v is not inspect.Parameter.empty}
        recipe = plugin.recipe(**{**known, **aliased, **written})
        label = recipe.short(usual)
        if asked:
            inner = label.partition("(")[2].removesuffix(")")
            label = f"{recipe.name}({', '.join(filter(None, [f'preset={asked!r}', inner]))})"
        return recipe, label

    def _find(self, kind: str, name: str) -> object:
        for spelling in (name, name.replace("_", "-"), name.replace("-", "_")):
            if (kind, spelling) in self.things:
                return self.things[kind, spelling]
        raise UsageError(f"there is no {kind} {name!r}{nearest(name, self.names(kind))}")

    def column(self, text: str) -> Column:
        """A column by name, or an attack with settings as a column of its own."""
        name, _, settings = split_recipe(text)
        name = name.replace("_", "-")
        found = self.things.get(("column", name))
        if isinstance(found, Column) and not settings:
            return found
        if ("attack", name) not in self.things:
            if isinstance(found, Column):
                raise UsageError(
                    f"column {name!r} is fixed; write its attack with settings instead, as in pgd(steps=50)"
                )
            known = {*self.names("column"), *self.names("attack")}
            raise UsageError(f"there is no column or attack {name!r}{nearest(name, known)}")
        recipe = self.parse("attack", text)
        assert isinstance(recipe.plugin, Attack)
        # What searches no norm, as `clean` does not, is asked about every image.
        return Column(str(recipe), (recipe.key,), strict=bool(recipe.plugin.norms))

    def suite(self, name: str) -> Suite:
        """A suite by name."""
        found = self._find("suite", name)
        assert isinstance(found, Suite)
        return found

    def study(self, name: str) -> Study:
        """A study by name."""
        found = self._find("study", name)
        assert isinstance(found, Study)
        return found

    def regions(self, name: str) -> Regions:
        """An experiment on regions by name."""
        found = self._find("regions", name)
        assert isinstance(found, Regions)
        return found

    def preset(self, defense: str, dataset: str, net: str, name: str = "") -> dict[str, Value]:
        """The settings that presets give a defense on a data set and net; one that names the net wins.

        A name asks for one by name; an error says which there are, and for which data sets.
        """
        own = [p for p in self.presets if p.defense == defense]
        named = [p for p in own if p.name == name] if name else [p for p in own if not p.name]
        if name and not named:
            known = sorted({p.name for p in own if p.name})
            raise UsageError(f"{defense} has no preset {name!r}{nearest(name, known)}")
        fitting = [p for p in named if p.dataset in (dataset, "*") and p.net in (net, "*")]
        if name and not fitting:
            places = sorted({p.dataset if p.net == "*" else f"{p.net} on {p.dataset}" for p in named})
            raise UsageError(f"the preset {name!r} of {defense} is for {', '.join(places)}; this is {net} on {dataset}")
        chosen: dict[str, Value] = {}
        for wanted in ("*", net):
            for preset in fitting:
                if preset.net == wanted:
                    chosen |= preset.settings
        return chosen

    def lacks_preset(self, defense: str, dataset: str) -> bool:
        """Whether a defense has presets, and none of them for this data set."""
        own = [p for p in self.presets if p.defense == defense]
        return bool(own) and not any(p.dataset in (dataset, "*") for p in own)


def plugins(files: Iterable[str | Path] = ()) -> Registry:
    """Load every plugin: the entry points of group `bench.plugins`, then lone files."""
    registry = Registry()
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        try:
            module = importlib.import_module(entry.value)
            if module.__file__ is None:
                raise UsageError(
                    f"plugin {entry.name!r}: a folder called {entry.value!r} hides it: {next(iter(module.__path__))}"
                )
            for found in _modules(module):
                registry.collect(found)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"plugin {entry.name!r} ({entry.value}) does not import: {error!r}") from error
    for file in files:
        registry.collect(load_file(Path(file)))
    return registry


def _modules(module: ModuleType) -> Iterator[ModuleType]:
    """A module, and if it is a package every module in it."""
    yield module
    for info in sorted(pkgutil.iter_modules(getattr(module, "__path__", [])), key=lambda m: m.name):
        if not info.name.startswith("_"):
            yield importlib.import_module(f"{module.__name__}.{info.name}")


def load_file(path: Path) -> ModuleType:
    """Import a lone file under a name made from its full path, so two files of one name do not meet."""
    path = path.resolve()
    if not path.is_file():
        raise UsageError(f"--plugin {path}: there is no such file")
    name = f"bench_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--plugin {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder is the user's
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(f"--plugin {path} does not import: {error!r}") from error
    finally:
        sys.dont_write_bytecode = writes
    return module


def split_recipe(text: str) -> tuple[str, int | None, dict[str, Value]]:
    """`name@2(a=1, b='x')` to its name, version and settings, read as literals."""
    if text.startswith("npz:"):
        return "npz", None, {"file": text[len("npz:") :]}
    matched = _RECIPE.fullmatch(text)
    if matched is None:
        raise UsageError(f"cannot read {text!r}; expected a name, or name(setting=value, …)")
    name, version, inner = matched.groups()
    try:
        call = ast.parse(f"f({inner or ''})", mode="eval").body
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        if call.args or any(k.arg is None for k in call.keywords):
            raise UsageError(f"in {text!r} every setting needs its name, as in {name}(setting=value)")
        settings = {str(k.arg): plain(ast.literal_eval(k.value)) for k in call.keywords}
        if len(settings) < len(call.keywords):
            raise UsageError(f"in {text!r} a setting is given twice")
        return name, int(version) if version else None, settings
    except (SyntaxError, ValueError, OverflowError, AssertionError, RecursionError, MemoryError, TypeError):
        raise UsageError(
            f"cannot read the settings of {text!r}; they are literals, as in {name}(beta=3.0, keep='any')"
        ) from None


def split_list(text: str) -> list[str]:
    """`aa, pgd(steps=50, step=0.1)` to its recipes: commas inside brackets or quotes do not split."""
    found, depth, quote, start = [], 0, "", 0
    for i, c in enumerate(text):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in "([":
            depth += 1
        elif c in ")]":
            depth -= 1
        elif c == "," and depth == 0:
            found.append(text[start:i])
            start = i + 1
    return [part.strip() for part in [*found, text[start:]] if part.strip()]


def plain(value: object) -> Value:
    """Finite numbers (int64), text, booleans, None and (nested) sequences of them, which become tuples."""
    if isinstance(value, list | tuple):
        return tuple(plain(v) for v in value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and math.isfinite(value) and (isinstance(value, float) or abs(value) < 2**63):
        return value
    raise ValueError(value)
