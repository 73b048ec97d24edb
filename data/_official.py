"""The published spoilt images of CIFAR, and the words for those that are missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import IncompleteError, IntegrityError, Part
from data._parts import one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNT = 10_000  # images of a severity; the five come one after the other
PAGES = {
    "CIFAR-10-C": "https://zenodo.org/records/2535967",
    "CIFAR-100-C": "https://zenodo.org/records/3555552",
    "Tiny-ImageNet-C": "https://zenodo.org/records/2536630",
}


def missing_images(name: str, path: Path, expected: str) -> IncompleteError:
    """The error for published images that are not there, and where they can be had."""
    return IncompleteError(
        f"{path} is not there; expected {expected} of {name}, as published: get it from {PAGES[name]} and unpack "
        f"it beside the data set, or take the corruption without official/, which is generated"
    )


def arrays(folder: Path) -> Callable[[str, int], Part]:
    """CIFAR's spoilt test images by corruption and severity, from a file a corruption; mapped, not read."""

    @cache
    def labels() -> NDArray[np.int64]:
        found = _load(folder / "labels.npy", "the labels")
        _check(folder / "labels.npy", found, "iu", (5 * COUNT,))
        return found.astype(np.int64)

    @cache
    def spoilt(name: str, severity: int) -> Part:
        path = folder / f"{name}.npy"
        found = _load(path, f"the images under {name}")
        _check(path, found, "u", (5 * COUNT, 32, 32, 3))
        rows = slice((severity - 1) * COUNT, severity * COUNT)
        return Part(found[rows].transpose(0, 3, 1, 2), labels()[rows])

    return spoilt


def _load(path: Path, expected: str) -> NDArray[Any]:
    """An array, mapped into memory; no pickle is ever loaded."""
    if not path.is_file():
        raise missing_images(path.parent.name, path, expected)
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises anything at a damaged header
        raise _wrong(path, f"it is no whole .npy file ({one_line(error)})") from error
    if not isinstance(found, np.ndarray):
        raise _wrong(path, "it is no single array")
    return found


def _check(path: Path, found: NDArray[Any], kinds: str, shape: tuple[int, ...]) -> None:
    """The array has the published shape and kind of number."""
    if found.shape != shape or found.dtype.kind not in kinds or (kinds == "u" and found.dtype != np.uint8):
        what = "uint8" if kinds == "u" else "whole numbers"
        raise _wrong(path, f"it holds {found.dtype} of shape {found.shape}; expected {what} of shape {shape}")


def _wrong(path: Path, what: str) -> IntegrityError:
    return IntegrityError(f"{path} is not the published file: {what}; get it again from {PAGES[path.parent.name]}")
