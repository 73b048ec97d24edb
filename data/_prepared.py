"""Images decoded once: a file of bytes that is mapped into memory, since no memory holds ImageNet's."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import IncompleteError, IntegrityError, Part, locked, workshop

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

FOLDER = "prepared"  # below the data folder
Labelled = Sequence[tuple[Path, int]]  # image files and their labels, in order


@dataclass(frozen=True)
class Crop:
    """How an image file becomes pixels: its shorter side is brought to `resize`, then `size` is cut from its middle.

    resize 0: the image is taken as it is, and must be square.  These are the steps of torchvision's Resize and
    CenterCrop on Pillow's images, as published accuracies on ImageNet use them.
    """

    size: int
    resize: int = 0
    interpolation: str = "bilinear"
    channels: int = 3

    @property
    def name(self) -> str:
        """What it does, in a name."""
        how = f"-{self.resize}-{self.interpolation}" if self.resize else ""
        return f"{self.size}{how}" + ("-grey" if self.channels == 1 else "")

    def read(self, path: Path) -> NDArray[np.uint8]:
        """The pixels (C, size, size) of an image file."""
        from PIL import Image

        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB" if self.channels == 3 else "L")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise IntegrityError(f"{path} is not a whole image file ({error}); fetch it again") from error
        if self.resize:
            image = self._cut(image)
        if image.size != (self.size, self.size):
            width, height = image.size
            raise IntegrityError(f"{path} has {width}x{height} pixels; expected {self.size}x{self.size}")
        pixels = np.asarray(image)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)

    def _cut(self, image: Image) -> Image:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as transform

        resized = transform.resize(image, [self.resize], InterpolationMode(self.interpolation))
        cut: Image = transform.center_crop(resized, [self.size, self.size])
        return cut


def prepared(root: Path, name: str, crop: Crop, files: Callable[[], Labelled]) -> Part:
    """The part of that name, decoded at its first use and mapped from then on.

    files: the images and labels that it is made of, looked up only when it must be made.  What is mapped has the hash
    that was found when it was made: a file that was changed since is read and compared, and made anew if it differs.
    """
    folder = root / FOLDER / f"{name}-{crop.name}"
    found = _open(folder)
    if found is not None:
        return found
    with _writing(folder), locked(root / FOLDER / f".{folder.name}.lock"):
        found = _open(folder)  # made by another process meanwhile
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, crop, files())
            found = _open(folder)
    if found is None:
        raise IntegrityError(f"{folder} was written and cannot be read back; is the disk sound?")
    return found


def _open(folder: Path) -> Part | None:
    """The prepared part, if it is there and whole."""
    try:
        card = json.loads((folder / "card.json").read_text())
        x = np.load(folder / "x.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
        y = np.load(folder / "y.npy", allow_pickle=False)
        if _stamp(folder) == card["stamp"]:
            return Part(x, y, known=card["hash"])
        found = Part(x, y)
        if found.hash != card["hash"]:
            return None
        _write_card(folder, found.hash)  # copied or touched, and the same
    except Exception:  # noqa: BLE001  numpy raises anything at a damaged header; it is then made anew
        return None
    return found


def _make(folder: Path, crop: Crop, files: Labelled) -> None:
    """Decode all images into a new folder, which is moved to its place when it is whole."""
    shape = (len(files), crop.channels, crop.size, crop.size)
    needed, free = int(np.prod(shape)), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise IncompleteError(f"{folder} needs {needed:,} bytes, where {free:,} are free")
    y = np.array([label for _, label in files], np.int64)
    found = hashlib.sha256(repr(shape).encode())
    with workshop(folder.parent / f".{folder.name}") as made:
        with (made / "x.npy").open("wb") as file, _quietly():
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for pixels in _decoded(crop, [path for path, _ in files]):
                raw = np.ascontiguousarray(pixels).data
                found.update(raw)
                file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        found.update(y.astype("<i8").data)
        np.save(made / "y.npy", y)
        _write_card(made, found.hexdigest())
        made.rename(folder)
    shutil.rmtree(folder.parent / f".{folder.name}", ignore_errors=True)


def _decoded(crop: Crop, paths: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
    """The pixels of each file, in order, a few ahead; Pillow decodes without holding Python's lock."""
    with ThreadPoolExecutor(_threads()) as pool:
        waiting = deque[Any]()
        try:
            for path in paths:
                waiting.append(pool.submit(crop.read, path))
                if len(waiting) > 256:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _threads() -> int:
    """One a core of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _quietly() -> Iterator[None]:
    """Pillow's warnings about the remarks inside some of ImageNet's files say nothing of their pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _stamp(folder: Path) -> list[list[int]]:
    """What tells that the files are those that were written."""
    return [[s.st_size, s.st_mtime_ns] for s in ((folder / name).stat() for name in ("x.npy", "y.npy"))]


def _write_card(folder: Path, found: str) -> None:
    """What is known of the arrays."""
    (folder / "card.json").write_text(json.dumps({"hash": found, "stamp": _stamp(folder)}) + "\n")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """An error of writing names the folder."""
    try:
        yield
    except OSError as error:
        raise IncompleteError(
            f"cannot write {folder}: {error.strerror or error}; nothing of it was kept, run again to continue"
        ) from error
