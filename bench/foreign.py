"""Plugins that are not imported here: what a child says that they bring, as nets and defenses that it runs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ModelError, SandboxError, UsageError
from bench.recipe import Defense, Net, Plugin, Value
from bench.registry import Registry, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.exam import Shape
    from bench.fence import Fence
    from bench.sandbox import Child, Sandboxed

MOST = 200  # plugins of a file, and settings of one
_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,100}")


class Foreign:
    """A plugin's function, which only a child runs; here it has a name and settings."""

    def __init__(self, file: str, fence: Fence, said: Mapping[str, Any]) -> None:
        self.file, self.fence = file, fence
        self.refused = _text(said["refused"])
        self.__doc__ = _text(said["summary"])
        self.__module__, self.__qualname__ = (_text(word) for word in said["where"])
        choices = {_name(k): tuple(plain(v) for v in values) for k, values in said["choices"].items()}
        settings: list[inspect.Parameter] = []
        for name, default in said["settings"][:MOST]:
            value = plain(default[0]) if default else inspect.Parameter.empty
            literal = f"Literal[{', '.join(map(repr, choices[name]))}]" if name in choices else "object"
            settings.append(
                inspect.Parameter(_setting(name), inspect.Parameter.KEYWORD_ONLY, default=value, annotation=literal)
            )
        self.__signature__ = inspect.Signature(settings)

    def __call__(self, *_args: Any, **settings: Any) -> Any:
        """Never here."""
        raise UsageError(f"{self.__qualname__}({', '.join(settings)}) of {self.file} is run in a sandbox only")


class ForeignNet(Foreign):
    """A net that is built in a child; what it is like is asked once for a shape and settings."""

    def __init__(self, file: str, fence: Fence, said: Mapping[str, Any], spare: list[Child]) -> None:
        super().__init__(file, fence, said)
        self._name, self._random = f"{said['name']}@{said['version']}", bool(said["random"])
        self._told: dict[str, Any] = {}
        self._spare = spare  # children that have imported the file, and have built no net yet
        self._built: dict[str, list[Child]] = {}  # and those that have

    def __call__(self, *, classes: int, channels: int, size: int, **settings: Value) -> Sandboxed:
        """The net, whose child is started when it is first asked."""
        from bench.exam import Shape
        from bench.sandbox import Cage, Sandboxed

        shape = Shape(classes, channels, size)
        inner = ", ".join(f"{k}={v!r}" for k, v in sorted(settings.items()))
        recipe = f"{self._name}({inner})"
        if f"{recipe} {shape}" not in self._told:
            child, told = self._build(recipe, shape)
            self._told[f"{recipe} {shape}"] = told
            self._built[f"{recipe} {shape}"] = [child]

        def start() -> Child:
            waiting = self._built[f"{recipe} {shape}"]
            return waiting.pop() if waiting else self._build(recipe, shape)[0]

        return Sandboxed(Cage(self.fence, start, self._told[f"{recipe} {shape}"], classes, self._random))

    def _build(self, recipe: str, shape: Shape) -> tuple[Child, Any]:
        """A child that has built the net, and what it says of it."""
        from dataclasses import astuple

        from bench import wire
        from bench.sandbox import Child, Told

        child = self._spare.pop() if self._spare else Child(self.fence, [self.file])
        try:
            said = child.json(wire.BUILD, {"net": recipe, "shape": list(astuple(shape))})
        except SandboxError:
            raise
        except ModelError as error:
            raise UsageError(str(error)) from None
        try:
            return child, Told.read(said)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise child.end(f"what it says of its net cannot be: {error!r}") from None


def foreign(registry: Registry, files: tuple[str, ...], fence: Fence) -> Registry:
    """Add what the files bring to the registry, without importing them here."""
    fence.check()
    for file in files:
        _add(registry, file, fence)
    return registry


def _add(registry: Registry, file: str, fence: Fence) -> None:
    from bench.sandbox import Child

    if not Path(file).is_file():
        raise UsageError(f"--plugin {file}: there is no such file")
    try:
        child = Child(fence, [file])
    except SandboxError as error:
        raise SandboxError(f"--plugin {file}: {error}") from None
    except ModelError as error:
        raise UsageError(str(error)) from None
    try:
        spare = [child]
        found = [_plugin(file, fence, said, spare) for said in child.brought[:MOST]]
    except UsageError:
        child.end("it is not needed")
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise SandboxError(f"--plugin {file}: what it says of itself cannot be: {error!r}") from None
    if not any(isinstance(plugin, Net) for plugin in found):
        child.end("it is not needed")
    for plugin in found:
        registry.add(plugin, file)


def _plugin(file: str, fence: Fence, said: Mapping[str, Any], spare: list[Child]) -> Plugin:
    """A net or defense from plain values."""
    kind, name = _text(said["kind"]), _name(said["name"])
    if kind not in {"net", "defense"}:
        raise UsageError(
            f"--plugin {file} brings the {kind} {name!r}; --sandbox holds nets and defenses: an attack, a corruption "
            "or a data set needs what a sandbox hides.  Keep it in another file, and use that without --sandbox"
        )
    version = said["version"]
    if type(version) is not int or not 0 < version < 10**6:
        raise ValueError(f"version {version!r}")
    paper = _text(said["paper"])
    if kind == "net":
        function = ForeignNet(file, fence, said, spare)
        return Net(name=name, function=function, version=version, paper=paper, random=said["random"] is True)
    own = Foreign(file, fence, said)
    return Defense(
        name=name, function=own, version=version, paper=paper, adversarial=said["adversarial"] is True,
        unkeyed=tuple(_setting(k) for k in said["unkeyed"]),
    )  # fmt: skip


def file_of(plugin: Plugin) -> str:
    """The file of a plugin that only a child runs; empty of every other."""
    return plugin.function.file if isinstance(plugin.function, Foreign) else ""


def _text(said: Any) -> str:
    from bench.sandbox import clean

    if not isinstance(said, str):
        raise TypeError(f"{type(said).__name__} is no text")
    return clean(said)


def _name(said: Any) -> str:
    if not isinstance(said, str) or not _NAME.fullmatch(said):
        raise ValueError(f"{str(said)[:100]!r} is no name")
    return said


def _setting(said: Any) -> str:
    if not isinstance(said, str) or not said.isidentifier() or len(said) > 100:
        raise ValueError(f"{str(said)[:100]!r} is no setting")
    return said
