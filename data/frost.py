"""The pictures of frost that the corruption lays over images; they come with the distribution imagecorruptions."""

from __future__ import annotations

import hashlib
import io
import os
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bench import IntegrityError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

VARIABLE = "BENCH_FROST"  # a folder with the pictures
PICTURES = {  # name to sha256, as in imagecorruptions 1.1.2 and in hendrycks/robustness, which never draws its sixth
    "frost1.png": "ff9f907860bd7a835d459e32f9d588062b7f61ee267343cc7222b56753a14755",
    "frost2.png": "fe211a89b336999c207a852ce05818d4545d0b57c5beadd824b4cc9d9a9b6137",
    "frost3.png": "2d0d50b4a9bb213f38b024ef7768731bb83cc08d2f26b5766bbc167cdfa0e504",
    "frost4.jpg": "3f8b91ca1a9fa7167b09e773da53f5ae60d0a1fd88f02a783f6e328a72887f6e",
    "frost5.jpg": "5fc6a19df4a429ba68abdcc8f8a4278d4c9f81c9ccafd2c92ab0c8cf8992ebd2",
}
HOW = (
    "frost needs five photographs that Rampart does not bring: pip install 'rampart-bench[frost]' (it brings "
    f"imagecorruptions, which has them), or name a folder that holds {', '.join(PICTURES)} in {VARIABLE}"
)


def places() -> tuple[Path, ...]:
    """Where the pictures lie: in the folder that BENCH_FROST names, or in the distribution, which is not imported."""
    if folder := os.environ.get(VARIABLE):
        found = tuple(Path(folder) / name for name in PICTURES)
        absent = [path.name for path in found if not path.is_file()]
        if absent:
            raise UsageError(f"{VARIABLE}={folder}: {', '.join(absent)} is not there; expected {', '.join(PICTURES)}")
        return found
    try:
        listed = files("imagecorruptions") or []
    except PackageNotFoundError:
        raise UsageError(HOW) from None
    by_name = {file.name: Path(str(file.locate())) for file in listed if file.parent.name == "frost"}
    if not all(name in by_name and by_name[name].is_file() for name in PICTURES):
        raise UsageError(f"imagecorruptions is installed without its pictures; {HOW}")
    return tuple(by_name[name] for name in PICTURES)


def pictures(size: float, side: int) -> tuple[NDArray[np.uint8], ...]:
    """The pictures (height, width, 3) at a share of their size, at the least so large that images of `side` fit in."""
    return _pictures(places(), size, side)


@lru_cache(maxsize=8)
def _pictures(paths: tuple[Path, ...], size: float, side: int) -> tuple[NDArray[np.uint8], ...]:
    return tuple(_small(_read(path), size, side) for path in paths)


def _read(path: Path) -> NDArray[np.uint8]:
    raw = path.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != PICTURES[path.name]:  # another picture would be another corruption under the same name
        raise IntegrityError(
            f"{path} is not the published photograph: its {len(raw):,} bytes have sha256 {found}, "
            f"expected {PICTURES[path.name]}"
        )
    with Image.open(io.BytesIO(raw)) as picture:
        return np.array(picture.convert("RGB"))  # without what says how transparent it is, as the original has it


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
