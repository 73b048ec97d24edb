"""SVHN's cropped digits, in the MATLAB files of their publication."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench import Dataset, IntegrityError, PublishedFile, dataset
from data._parts import few, hold_out, missing, part, published

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILES = {  # name to md5, as torchvision has them
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
SIZES = (182_040_794, 64_275_384)
HOST = "ufldl.stanford.edu/housenumbers"  # nobody else serves the files
VAL = 1_000


@dataset(
    net="resnet18",
    threat="linf:8/255",
    downloads=tuple(
        PublishedFile(
            name, f"md5:{md5}", (f"http://{HOST}/{name}", f"https://{HOST}/{name}"), size,
            into="svhn", page=f"http://{HOST}/",
        )
        for (name, md5), size in zip(FILES.items(), SIZES, strict=True)
    ),
)  # fmt: skip
def svhn(root: Path, *, train_images: int = 0) -> Dataset:
    """SVHN (Netzer et al., 2011): 32x32 house numbers, without `extra`; 72,257 train, 1,000 validate, 26,032 test.

    train_images: so many of the training images; 0 is all.
    """
    folders = (root / "svhn", root)  # ours, and torchvision's
    folder = next((f for f in folders if all((f / name).is_file() for name in FILES)), folders[0])
    absent = [name for name in FILES if not (folder / name).is_file()]
    if absent:
        raise missing("svhn", folder, absent, root)
    train, test = (read_mat(folder / name, md5) for name, md5 in FILES.items())
    return few(Dataset("svhn", *hold_out(*train, VAL), part(*test), tuple("0123456789")), train_images)


def read_mat(path: Path, md5: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 3, 32, 32) and labels (N,) of a published file; there the digit 0 is labelled 10."""
    from scipy.io import loadmat

    raw = published(path, md5)
    try:
        arrays = loadmat(io.BytesIO(raw), variable_names=("X", "y"))
        x, y = arrays["X"], arrays["y"].astype(np.int64).ravel()
    except Exception as error:  # a damaged file can raise nearly anything
        raise IntegrityError(f"{path} is not a MATLAB file with X and y ({error!r})") from error
    if x.dtype != np.uint8 or x.shape != (32, 32, 3, len(y)):
        raise IntegrityError(f"{path}: X is {x.dtype} {x.shape}; expected uint8 (32, 32, 3, {len(y)})")
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1)), y % 10
