"""MNIST and Fashion-MNIST, in the files of their publications (the idx format)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench import Dataset, IntegrityError, Part, PublishedFile, UsageError, dataset
from data._parts import few, hold_out, missing, part

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
VAL = 1_000


def _downloads(
    folder: str, page: str, mirrors: tuple[str, ...], files: dict[str, tuple[int, str]]
) -> tuple[PublishedFile, ...]:
    """The packed files, which are read as they are."""
    return tuple(
        PublishedFile(
            f"{name}.gz", f"md5:{md5}", tuple(f"{mirror}/{name}.gz" for mirror in mirrors), size,
            into=f"{folder}/raw", page=page,
        )
        for name, (size, md5) in files.items()
    )  # fmt: skip


MNIST = _downloads(
    "MNIST", "http://yann.lecun.com/exdb/mnist/",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        "http://yann.lecun.com/exdb/mnist",
    ),
    {
        "train-images-idx3-ubyte": (9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        "train-labels-idx1-ubyte": (28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        "t10k-images-idx3-ubyte": (1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
        "t10k-labels-idx1-ubyte": (4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
    },
)  # fmt: skip
FASHION = _downloads(
    "FashionMNIST", "https://github.com/zalandoresearch/fashion-mnist",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
    ),
    {
        "train-images-idx3-ubyte": (26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        "train-labels-idx1-ubyte": (29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        "t10k-images-idx3-ubyte": (4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
        "t10k-labels-idx1-ubyte": (5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
    },
)  # fmt: skip
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip


@dataset(net="cnn", threat="linf:0.3", downloads=MNIST)
def mnist(root: Path, *, digits: tuple[int, ...] = (), train_images: int = 0) -> Dataset:
    """MNIST (LeCun et al., 1998): 28x28 digits; 59,000 train, 1,000 validate, 10,000 test; torchvision's layout.

    digits: only images of these, two or more of them, as the classes in this order.  train_images: so many of the
    training images; 0 is all.
    """
    whole = _load("mnist", root, "MNIST", tuple("0123456789"))
    return few(_only(whole, digits) if digits else whole, train_images, _learnt(digits, train_images))


def _only(whole: Dataset, digits: tuple[int, ...]) -> Dataset:
    """The images of some digits, each part in its order; the first of them is class 0."""
    known = range(len(whole.classes))
    if len(digits) < 2 or len(set(digits)) < len(digits) or not all(type(d) is int and d in known for d in digits):
        raise UsageError(f"digits={digits}: expected two or more different ones from 0 to 9, as in digits=(5, 7)")
    label = np.full(len(known), -1)
    label[list(digits)] = np.arange(len(digits))

    def of(some: Part) -> Part:
        keep = label[some.y] >= 0
        return part(some.x[keep], label[some.y[keep]])

    name, classes = f"{whole.name}(digits={digits})", tuple(str(d) for d in digits)
    return Dataset(name, of(whole.train), of(whole.val), of(whole.test), classes)


def _learnt(digits: tuple[int, ...], count: int) -> str:
    """The name of the data set in its trainings."""
    said = [f"digits={digits}"] if digits else []
    return f"mnist({', '.join([*said, f'train_images={count}'])})"


# At MNIST's 0.3 a pullover can be made a coat for the eye too; 0.1 is usual (Wong & Kolter, 2018; Croce et al., 2019).
@dataset(net="cnn", threat="linf:0.1", downloads=FASHION, paper="arXiv:1708.07747")
def fashion_mnist(root: Path, *, train_images: int = 0) -> Dataset:
    """Fashion-MNIST (Xiao et al., 2017): 28x28 clothes; 59,000 train, 1,000 validate, 10,000 test.

    train_images: so many of the training images; 0 is all.
    """
    return few(_load("fashion-mnist", root, "FashionMNIST", CLOTHES), train_images)


def _load(name: str, root: Path, publication: str, classes: tuple[str, ...]) -> Dataset:
    """The four files, in parts."""
    folder = root / publication / "raw"
    found = {file: _find(folder, file) for file in FILES}
    absent = [f"{file}[.gz]" for file, path in found.items() if path is None]
    if absent:
        raise missing(name, folder, absent, root)
    x, y, x_test, y_test = (read_idx(path, FILES[file]) for file, path in found.items() if path is not None)
    train, val = hold_out(x[:, None], y, VAL)
    return Dataset(name, train, val, part(x_test[:, None], y_test), classes)


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
