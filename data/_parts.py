"""What the loaders share: the fixed cut into parts, checked files, and the words for those that are missing."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import Dataset, IncompleteError, IntegrityError, Part, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def order(count: int) -> NDArray[np.int64]:
    """The seed-0 permutation of 0..count-1: RandomState, whose streams NumPy has promised never to change."""
    return np.random.RandomState(0).permutation(count).astype(np.int64)


def part(x: NDArray[np.uint8], y: NDArray[Any]) -> Part:
    """Images (N, C, H, W) and labels of any integer type (N,) as a Part."""
    return Part(np.ascontiguousarray(x), y.astype(np.int64))


def nothing(like: Part) -> Part:
    """A part without images, of the shape of another's: of a data set that is only examined."""
    return Part(np.empty((0, *like.x.shape[1:]), np.uint8), np.empty(0, np.int64))


def hold_out(x: NDArray[np.uint8], y: NDArray[Any], count: int) -> tuple[Part, Part]:
    """Train and val: the first `count` of the seed-0 permutation validate, as in Rice et al. (arXiv:2002.11569)."""
    places = order(len(y))
    val, train = places[:count], places[count:]
    return part(x[train], y[train]), part(x[val], y[val])


def few(found: Dataset, count: int, name: str = "") -> Dataset:
    """The data set with so many of its training images, of which more hold all of fewer; 0 is all.

    They are the first of a seed-0 permutation; the images that validate and test stay as they are.  name: by which
    trainings know it, where that is not the data set's own with the count.
    """
    if not count:
        return found
    if not 0 < count <= len(found.train):
        raise UsageError(f"train_images={count}: {found.name} has {len(found.train):,} training images; 0 is all")
    places = np.sort(order(len(found.train))[:count])
    train = part(found.train.x[places], found.train.y[places])
    return replace(found, train=train, learnt=name or f"{found.name}(train_images={count})")


def published(path: Path, md5: str) -> bytes:
    """The bytes of a file that must be the published one."""
    raw = path.read_bytes()
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != md5:
        raise IntegrityError(
            f"{path} is not the published file: its {len(raw):,} bytes have md5 {found}, expected {md5}; "
            "fetch it again, or if the images are your own, name them as npz:FILE"
        )
    return raw


def missing(name: str, folder: Path, files: Iterable[str], root: Path) -> IncompleteError:
    """The error for a data set that is not there: which files, looked for where, and how to get them."""
    return IncompleteError(
        f"{name} is not in {folder}: expected {', '.join(files)} there; get it with\n"
        f"    bench fetch {name} --data {shlex.quote(str(root))}\n"
        "or name the folder that holds it with --data DIR"
    )


def one_line(error: Exception) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
