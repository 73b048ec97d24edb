"""Where work is done: the folders, plugins and device of a run, and what is loaded from them once a process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from bench.errors import RampartError, UsageError
from bench.evaluate import Subject
from bench.exam import Dataset, Precision, Shape
from bench.fast import hasten
from bench.fence import Fence
from bench.foreign import foreign
from bench.ledger import Ledger
from bench.recipe import DatasetLoader, Net, Recipe
from bench.registry import Registry, plugins
from bench.sandbox import Sandboxed
from bench.store import Store
from bench.victim import freeze, small, tile_size

THREADS = 1  # of a worker that attacks; more workers, not more threads, use more cores


@dataclass(frozen=True)
class Place:
    """Plain values, so that it travels to other processes."""

    ledger_root: Path
    store_root: Path
    data_root: Path
    plugin_files: tuple[str, ...] = ()
    device_name: str = "cpu"
    batch: int = 512
    tensorboard: str = ""  # a folder for the histories of trainings
    fence: Fence | None = None  # plugin files are not imported here: a child process runs what they bring

    @property
    def ledger(self) -> Ledger:
        """All records."""
        return Ledger(self.ledger_root)

    @property
    def store(self) -> Store:
        """All weights and bundles."""
        return Store(self.store_root)

    @property
    def device(self) -> torch.device:
        """Where models run."""
        return torch.device(self.device_name)

    @property
    def registry(self) -> Registry:
        """All plugins."""
        return _registry(self.plugin_files, self.fence)

    def dataset(self, recipe: Recipe) -> Dataset:
        """The images of a data set."""
        return _dataset(self, recipe.written)

    def subject(self, net: str, weights: str, shape: Shape, precision: Precision = "exact") -> Subject:
        """A net with weights from the store, frozen on the device."""
        return _subject(self, net, weights, shape, precision)

    def fresh(self, net: str, weights: str, shape: Shape) -> Subject:
        """The same in exact arithmetic, loaded anew: what is done to it is seen by nobody else."""
        return _load(self, net, weights, shape)


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cards() -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES is for a worker that has one card to itself, for each card that is seen here."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = said.split(",") if said else [str(number) for number in range(torch.cuda.device_count())]
    return tuple(seen[: torch.cuda.device_count()])


def pick_device(name: str) -> str:
    """`auto` to the best there is; an error when the one asked for is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch finds no CUDA device here; --device cpu works everywhere")
    try:
        torch.empty(0, device=name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


def pick_batch(device: str) -> int:
    """Images that an attack holds at once: many tiles, so that little of the last is padding; memory halves it."""
    return 512 if device == "cpu" else 4096


@lru_cache(maxsize=4)
def _registry(files: tuple[str, ...], fence: Fence | None) -> Registry:
    return plugins(files) if fence is None else foreign(plugins(), files, fence)


@lru_cache(maxsize=2)
def _dataset(place: Place, written: str) -> Dataset:
    recipe = place.registry.parse("dataset", written)
    assert isinstance(recipe.plugin, DatasetLoader)
    return recipe.plugin(place.data_root, **recipe.settings)


@lru_cache(maxsize=4)
def _subject(place: Place, net: str, weights: str, shape: Shape, precision: Precision) -> Subject:
    exact = _load(place, net, weights, shape)
    if precision == "exact" or exact.random or isinstance(exact.module, Sandboxed):
        return exact
    module, tile = exact.module, exact.tile
    drawn = torch.rand(tile, shape.channels, shape.size, shape.size, generator=torch.Generator().manual_seed(0))
    fast = hasten(module, drawn.to(place.device))
    # Small nets gain in forwards alone.
    return Subject(module, tile, exact.random, None if fast is module else fast, blind=small(module))


def _load(place: Place, net: str, weights: str, shape: Shape) -> Subject:
    """A net with weights from the store, frozen on the device."""
    recipe = place.registry.parse("net", net)
    assert isinstance(recipe.plugin, Net)
    module = build(recipe, shape)
    module.load_state_dict(place.store.get(weights))
    module = freeze(module, place.device)
    return Subject(module, tile_size(place.device, module), recipe.plugin.random)


def build(recipe: Recipe, shape: Shape) -> torch.nn.Module:
    """An untrained module of a net."""
    assert isinstance(recipe.plugin, Net)
    try:
        module: object = recipe.plugin.function(
            classes=shape.classes, channels=shape.channels, size=shape.size, **recipe.settings
        )
    except RampartError:
        raise
    except Exception as error:
        raise UsageError(f"net {recipe} cannot be built for {shape}: {error!r}") from error
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"net {recipe} gave {type(module).__name__}; expected a torch module")
    return module
