"""MNIST, in the files of its publication (the idx format)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench import Dataset, IntegrityError, dataset
from data._parts import hold_out, missing, part

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
VAL = 1_000


@dataset(net="cnn", threat="linf:0.3")
def mnist(root: Path) -> Dataset:
    """MNIST (LeCun et al., 1998): 28x28 digits; 59,000 train, 1,000 validate, 10,000 test; torchvision's layout."""
    folder = root / "MNIST" / "raw"
    found = {name: _find(folder, name) for name in FILES}
    absent = [f"{name}[.gz]" for name, path in found.items() if path is None]
    if absent:
        command = f'python -c "import torchvision; torchvision.datasets.MNIST({str(root)!r}, download=True)"'
        raise missing("mnist", folder, absent, command)
    x, y, x_test, y_test = (read_idx(path, FILES[name]) for name, path in found.items() if path is not None)
    train, val = hold_out(x[:, None], y, VAL)
    return Dataset("mnist", train, val, part(x_test[:, None], y_test), tuple("0123456789"))


def _find(folder: Path, name: str) -> Path | None:
    """The unpacked file, or else the packed one."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The bytes of an idx file of exactly this shape; another header or length is named.

    Format: 0x00000800 + number of axes, then the length of each axis (big-endian uint32), then the bytes.
    """
    raw = _bytes(path)
    expected = (0x800 + len(shape), *shape)
    header = 4 * len(expected)
    if len(raw) < header or (said := struct.unpack_from(f">{len(expected)}I", raw)) != expected:
        what = f"header {said}" if len(raw) >= header else f"length of {len(raw)} bytes"
        raise IntegrityError(f"{path} has a {what}; expected the idx header {expected}, for bytes of shape {shape}")
    if len(raw) != header + math.prod(shape):
        raise IntegrityError(
            f"{path} has {len(raw):,} bytes; expected {header + math.prod(shape):,}: a header of {header}, "
            f"then bytes of shape {shape}"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy()


def _bytes(path: Path) -> bytes:
    """What the file holds, unpacked."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise IntegrityError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
