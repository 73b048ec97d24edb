"""The pictures of frost that the corruption lays over images; they come with the distribution imagecorruptions."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bench import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

VARIABLE = "BENCH_FROST"  # a folder with the pictures
NAMES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")  # the original never draws the sixth
HOW = (
    "frost needs five photographs that Rampart does not bring: pip install 'rampart-bench[frost]' (it brings "
    f"imagecorruptions, which has them), or name a folder that holds {', '.join(NAMES)} in {VARIABLE}"
)


def places() -> tuple[Path, ...]:
    """Where the pictures lie: in the folder that BENCH_FROST names, or in the distribution, which is not imported."""
    if folder := os.environ.get(VARIABLE):
        found = tuple(Path(folder) / name for name in NAMES)
        absent = [path.name for path in found if not path.is_file()]
        if absent:
            raise UsageError(f"{VARIABLE}={folder}: {', '.join(absent)} is not there; expected {', '.join(NAMES)}")
        return found
    try:
        listed = files("imagecorruptions") or []
    except PackageNotFoundError:
        raise UsageError(HOW) from None
    by_name = {file.name: Path(str(file.locate())) for file in listed if file.parent.name == "frost"}
    if not all(name in by_name and by_name[name].is_file() for name in NAMES):
        raise UsageError(f"imagecorruptions is installed without its pictures; {HOW}")
    return tuple(by_name[name] for name in NAMES)


def pictures(size: float, side: int) -> tuple[NDArray[np.uint8], ...]:
    """The pictures (height, width, 3) at a share of their size, at the least so large that images of `side` fit in."""
    return _pictures(places(), size, side)


@lru_cache(maxsize=8)
def _pictures(paths: tuple[Path, ...], size: float, side: int) -> tuple[NDArray[np.uint8], ...]:
    return tuple(_small(_read(path), size, side) for path in paths)


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            # Dropping what is transparent, as the original does; convert() does not blend.
            return np.array(picture.convert("RGB"))
    except OSError as error:
        raise UsageError(
            f"{path} is not a picture that can be read ({error}); expected a photograph of frost"
        ) from None


def _small(picture: NDArray[np.uint8], size: float, side: int) -> NDArray[np.uint8]:
    """The picture between its pixels, linearly, at a share of its size: OpenCV's resize, which does not average."""
    share = max(size, (side + 1) / min(picture.shape[:2]))
    if share == 1:
        return picture
    found = picture.astype(np.float64)
    for axis in (0, 1):
        length = found.shape[axis]
        at = (np.arange(round(length * share)) + 0.5) / share - 0.5
        low = np.clip(np.floor(at), 0, length - 1)
        part = np.clip(at - low, 0, 1).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        high = np.minimum(low + 1, length - 1)
        found = found.take(low.astype(int), axis) * (1 - part) + found.take(high.astype(int), axis) * part
    return np.floor(found + 0.5 + 1e-9).astype(np.uint8)


def lacks() -> str:
    """Why frost cannot be used here; empty where it can."""
    try:
        places()
    except UsageError as error:
        return str(error)
    return ""
