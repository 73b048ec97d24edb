"""CIFAR-10, in the Python batches of its publication."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import Dataset, IntegrityError, dataset
from data._parts import hold_out, missing, part

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = "cifar-10-batches-py"
FILES = {  # name to md5, as torchvision has them
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VAL = 1_000
ALLOWED = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how Python 3 writes bytes in old protocols
}


@dataset(net="resnet18", threat="linf:8/255")
def cifar10(root: Path) -> Dataset:
    """CIFAR-10 (Krizhevsky, 2009): 32x32 colour; 49,000 train, 1,000 validate, 10,000 test; torchvision's layout."""
    folder = root / FOLDER
    absent = [name for name in FILES if not (folder / name).is_file()]
    if absent:
        command = f'python -c "import torchvision; torchvision.datasets.CIFAR10({str(root)!r}, download=True)"'
        raise missing("cifar10", folder, absent, command)
    *batches, test = (read_batch(folder / name, md5) for name, md5 in FILES.items())
    x, y = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    return Dataset("cifar10", *hold_out(x, y, VAL), part(*test), CLASSES)


def read_batch(path: Path, md5: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 3, 32, 32) and labels (N,) of one batch, which must be the published file byte for byte."""
    raw = path.read_bytes()
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != md5:
        raise IntegrityError(
            f"{path} is not the published file: its {len(raw):,} bytes have md5 {found}, expected {md5}; "
            "fetch it again, or if the images are your own, name them as npz:FILE"
        )
    batch = unpickle(raw, path)
    return np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32), np.asarray(batch["labels"], np.int64)


def unpickle(raw: bytes, path: Path) -> dict[str, Any]:
    """A pickled dict of arrays, lists, numbers and text; a pickle that names anything else is refused unrun."""
    try:
        batch = _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()  # latin1: Python 2 wrote the batches
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise IntegrityError(f"{path} is not a whole pickle ({error!r})") from error
    if not isinstance(batch, dict):
        raise IntegrityError(f"{path} holds a {type(batch).__name__}; expected a dict")
    return batch


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can rebuild NumPy arrays and bytes, and call nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The few names that arrays and bytes are made with."""
        now = module.replace("numpy.core.", "numpy._core.")  # NumPy 2 moved it
        if (now, name) not in ALLOWED:
            raise IntegrityError(f"the pickle asks for {module}.{name}, which could run code; expected arrays only")
        return super().find_class(now, name)
