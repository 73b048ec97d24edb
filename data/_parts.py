"""What the loaders share: the fixed cut into parts, and the words for files that are missing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import IncompleteError, Part

if TYPE_CHECKING:
    from numpy.typing import NDArray


def order(count: int) -> NDArray[np.int64]:
    """The seed-0 permutation of 0..count-1: RandomState, whose streams NumPy has promised never to change."""
    return np.random.RandomState(0).permutation(count).astype(np.int64)


def part(x: NDArray[np.uint8], y: NDArray[Any]) -> Part:
    """Images (N, C, H, W) and labels of any integer type (N,) as a Part."""
    return Part(np.ascontiguousarray(x), y.astype(np.int64))


def hold_out(x: NDArray[np.uint8], y: NDArray[Any], count: int) -> tuple[Part, Part]:
    """Train and val: the first `count` of the seed-0 permutation validate, as in Rice et al. (arXiv:2002.11569)."""
    places = order(len(y))
    val, train = places[:count], places[count:]
    return part(x[train], y[train]), part(x[val], y[val])


def missing(name: str, folder: Path, files: Iterable[str], command: str) -> IncompleteError:
    """The error for a data set that is not there: which files, looked for where, and how to get them."""
    return IncompleteError(
        f"{name} is not in {folder}: expected {', '.join(files)} there; get it with\n"
        f"    {command}\n"
        "or name the folder that holds it with --data DIR"
    )
