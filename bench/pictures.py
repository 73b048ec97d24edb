"""The arrays behind figures; the leaderboard only draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bench.errors import UsageError
from bench.evaluate import images
from bench.exam import Condition
from bench.recipe import Corruption

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.exam import Dataset
    from bench.registry import Registry


@dataclass(frozen=True, eq=False)
class Sheet:
    """One image under every corruption at every severity: pictures uint8 (H, W, C)."""

    dataset: str
    place: int  # of the image in the test part
    label: str
    clean: NDArray[np.uint8]
    rows: tuple[tuple[str, tuple[NDArray[np.uint8], ...]], ...]  # a corruption's name, and severities 1 to 5
    left_out: tuple[tuple[str, str], ...]  # a corruption's name, and why there is none


def corruptions(registry: Registry, dataset: Dataset, place: int) -> Sheet:
    """The test image at a place under every corruption there is for images of its shape."""
    if not 0 <= place < len(dataset.test):
        raise UsageError(f"--image {place}: {dataset.name} has the test images 0 to {len(dataset.test) - 1}")

    def picture(recipe: str = "", severity: int = 0) -> NDArray[np.uint8]:
        corruption = registry.parse("corruption", recipe) if recipe else None
        x = images(dataset.test, torch.tensor([place]), torch.device("cpu"), corruption, severity)[0][0]
        found: NDArray[np.uint8] = (x * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return found

    rows, left_out = [], []
    for plugin in registry.all("corruption"):
        assert isinstance(plugin, Corruption)
        reason = plugin.unfit(dataset.shape) if plugin.unfit else ""
        if reason:
            left_out.append((plugin.name, reason))
        else:
            rows.append((plugin.name, tuple(picture(plugin.name, severity) for severity in Condition.SEVERITIES)))
    if not rows:
        said = "; ".join(dict.fromkeys(reason for _, reason in left_out)) or "there is no corruption here"
        raise UsageError(f"nothing to draw for {dataset.name}: {said}")
    label = dataset.classes[int(dataset.test.y[place])]
    return Sheet(dataset.name, place, label, picture(), tuple(rows), tuple(left_out))
