"""Published spoilt images as conditions: `official/fog:3` beside `fog:3`, which is generated here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from bench.errors import IntegrityError, UsageError
from bench.exam import Condition, digest
from bench.recipe import Corruption, Recipe
from bench.registry import split_recipe

if TYPE_CHECKING:
    from torch import Tensor

    from bench.draws import Draws
    from bench.exam import Dataset, Part
    from bench.registry import Registry

PREFIX = "official/"


def corruption(text: str, registry: Registry, dataset: Dataset | None) -> Recipe:
    """A corruption's recipe by name; with official/ before it, that of a data set's published images.

    Without a data set only the names are checked.  IntegrityError where a key names other images than there are.
    """
    if not text.startswith(PREFIX):
        return registry.parse("corruption", text)
    name, version, settings = split_recipe(text.removeprefix(PREFIX))
    generated = registry.parse("corruption", name)
    if version not in (None, 1) or settings.keys() - {"images"}:
        raise UsageError(f"{text}: expected {PREFIX}{name} alone; published images have no settings")
    if dataset is None:
        return generated
    recipe = _recipe(dataset, name)
    if settings and settings != recipe.settings:
        raise IntegrityError(
            f"{PREFIX}{name}: the images here have the hash {recipe.settings['images']}; expected {settings['images']}"
        )
    return recipe


def _recipe(dataset: Dataset, name: str) -> Recipe:
    """A corruption that looks its images up; their hash is in its key."""
    parts = [_part(dataset, name, severity) for severity in Condition.SEVERITIES]

    def spoil(x: Tensor, severity: int, draws: Draws, *, images: str) -> Tensor:
        """The images as they were published."""
        found = parts[severity - 1].x[draws.ids.cpu().numpy()]
        return torch.from_numpy(np.ascontiguousarray(found)).to(x.device).float() / 255

    plugin = Corruption(name=PREFIX + name, function=spoil)
    return plugin.recipe(images=digest([part.hash for part in parts]))


def _part(dataset: Dataset, name: str, severity: int) -> Part:
    """The published images of a severity, which must be those of the test part: as many, alike, in its order."""
    if dataset.official is None:
        raise UsageError(f"{PREFIX}{name}: no spoilt images of {dataset.name} are published; {name} generates them")
    part, test = dataset.official(name, severity), dataset.test
    if part.x.shape != test.x.shape:
        raise IntegrityError(
            f"{PREFIX}{name}:{severity} of {dataset.name} holds images of shape {part.x.shape}; "
            f"expected {test.x.shape}, as the test part has them"
        )
    wrong = np.flatnonzero(part.y != test.y)
    if len(wrong):
        raise IntegrityError(
            f"{PREFIX}{name}:{severity} of {dataset.name} has other labels than the test part at "
            f"{len(wrong):,} of {len(test):,} places, {wrong[0]} first; expected the same images in its order"
        )
    return part
