"""docs/defenses.md: the defenses and their presets, from the code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bench.recipe import Defense, Preset

if TYPE_CHECKING:
    from bench.registry import Registry

TOP = """# Defenses and presets

Made from the code by `make docs`.

## Methods

`bench list defenses` says more of each, with every setting. Settings that all trainings share (the course: epochs,
rates, averages of the weights, …; the attack on training images: steps, start, …; the masks of PART) are written beside
the method's own: `--defense "trades(beta=3.0, epochs=50, ema=0.995)"`.

| defense | what it is | paper | its own settings |
| --- | --- | --- | --- |
"""
SHARED = """
## Settings that methods share

What a method's own defaults say otherwise stands in `bench list defenses`.

| group | settings with their usual values |
| --- | --- |
"""
MIDDLE = """
## Presets

What a defense means on a data set: `--defense vir-at --dataset cifar10 --net resnet18` is the paper's recipe, and its
every setting is in the record. A preset with a name is asked for: `--defense "at(preset='rice')"`. What is written on
the command line beats a preset, and an explicit `--threat` beats its `eps`, the radius that is trained for. A data set
without a row here gets the method's defaults, and the run says so.

| defense | data set | net | settings that differ from the method's defaults | source |
| --- | --- | --- | --- | --- |
"""


def page(registry: Registry) -> str:
    """The page."""
    methods = [d for d in registry.all("defense") if isinstance(d, Defense)]
    groups = {name: type(default)() for d in methods for name, default in d.spread.items()}
    shared = [f"| {name} | {_settings(vars(value))} |\n" for name, value in sorted(groups.items())]
    return TOP + "".join(map(_method, methods)) + SHARED + "".join(shared) + MIDDLE + "".join(_presets(registry))


def _method(plugin: Defense) -> str:
    spread = {name for default in plugin.spread.values() for name in vars(default)}
    own = {name: value for name, value in plugin.defaults.items() if name not in spread}
    paper = plugin.paper
    if paper.startswith("arXiv:"):
        paper = f"[{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')})"
    elif paper:
        paper = f"[{paper.partition('?')[0].partition('/')[0]}](https://{paper})"
    return f"| `{plugin.name}` | {plugin.summary} | {paper} | {_settings(own)} |\n"


def _presets(registry: Registry) -> Iterator[str]:
    """A row for each preset; those that say the same on several data sets are one."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for preset in registry.presets:
        plugin = registry.parse_defense(_name(preset), preset.dataset, _net(preset))[0].plugin
        changed = {k: v for k, v in preset.settings.items() if v != plugin.defaults[k]}
        key = (f"`{_name(preset)}`", "any" if preset.net == "*" else preset.net, _settings(changed), preset.source)
        rows.setdefault(key, []).append(preset.dataset)
    for (name, net, settings, source), datasets in rows.items():
        yield f"| {name} | {', '.join(dict.fromkeys(datasets))} | {net} | {settings or 'none'} | {source} |\n"


def _name(preset: Preset) -> str:
    return f"{preset.defense}(preset={preset.name!r})" if preset.name else preset.defense


def _net(preset: Preset) -> str:
    return "cnn" if preset.net == "*" else preset.net


def _settings(settings: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}={_short(value)}`" for name, value in settings.items())


def _short(value: object) -> str:
    if value is inspect.Parameter.empty:
        return "…"
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


if __name__ == "__main__":
    from bench.registry import plugins

    sys.stdout.write(page(plugins()))
