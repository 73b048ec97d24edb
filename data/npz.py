"""The user's own images, in one .npz file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import Dataset, Part, UsageError, dataset, nearest
from data._parts import few, hold_out, one_line, part

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEEDED = ("x_train", "y_train", "x_test", "y_test")
OPTIONAL = ("x_val", "y_val", "classes")
MAX_VAL = 1_000
MAX_CLASSES = 100_000  # beyond it a label is a mistake, not a class


@dataset(net="cnn", threat="linf:8/255")
def npz(root: Path, *, file: str, train_images: int = 0) -> Dataset:
    """Your own file: x_train, y_train, x_test, y_test (x uint8 NCHW), and optionally x_val, y_val, classes.

    Without x_val the first tenth (at most 1,000) of a seed-0 permutation of the training images validates.
    train_images: so many of the training images; 0 is all: npz(file='mine.npz', train_images=500).
    """
    path = _find(root, file)
    arrays = _read(path)
    train, test = (_part(path, arrays, name) for name in ("train", "test"))
    if "x_val" in arrays:
        val = _part(path, arrays, "val")
    elif len(train) < 2:
        raise UsageError(f"{path}: x_train has one image; expected two or more, as some must validate (or give x_val)")
    else:
        train, val = hold_out(train.x, train.y, min(MAX_VAL, max(1, len(train) // 10)))
    _check_alike(path, train, val, test)
    whole = Dataset(f"npz:{path.name}", train, val, test, _classes(path, arrays.get("classes"), (train, val, test)))
    return few(whole, train_images, f"npz(file={path.name!r}, train_images={train_images})")


def _find(root: Path, file: str) -> Path:
    """The file as named, or else under the data folder."""
    named = Path(file).expanduser()
    for path in (named, root / named):
        if path.is_file():
            return path
    folders = list(dict.fromkeys(path.parent for path in (named, root / named)))
    there = {path.name for folder in folders for path in folder.glob("*.npz")}
    looked = " and ".join(str(folder.resolve()) for folder in folders)
    raise UsageError(f"npz:{file}: there is no such file; looked in {looked}{nearest(named.name, there)}")


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of the file that we know by name; no pickle is ever loaded."""
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path} is not a whole .npz file (a zip of arrays); expected one made by numpy.savez")
    arrays = {}
    key = "its table of contents"
    try:
        # Opened here: numpy leaves a file open whose table of contents it cannot read.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            _check_keys(path, file.files)
            for key in (k for k in (*NEEDED, *OPTIONAL) if k in file.files):
                arrays[key] = file[key]
    except UsageError:
        raise
    except Exception as error:  # numpy and zipfile raise anything at a damaged header, TokenError among it
        raise UsageError(
            f"{path}: {key} cannot be read ({one_line(error)}); expected plain arrays, made by numpy.savez"
        ) from error
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise UsageError(f"{path}: {key} is not an array; expected a file made by numpy.savez")
    return arrays


def _check_keys(path: Path, keys: list[str]) -> None:
    """All that is needed is there, and nothing that looks like a misspelt part."""
    known = {*NEEDED, *OPTIONAL}
    for key in keys:
        if key not in known and key.lower().startswith(("x_", "y_", "class")):
            names = ", ".join((*NEEDED, *OPTIONAL))
            raise UsageError(f"{path} has {key!r}, which is none of {names}{_mean(key, known)}")
    for key in NEEDED:
        if key not in keys:
            hint = _mean(key, set(keys) - known)
            raise UsageError(f"{path} has no {key!r}; it has {', '.join(keys[:10]) or 'nothing'}{hint}")
    if ("x_val" in keys) != ("y_val" in keys):
        raise UsageError(f"{path} has only one of x_val and y_val; expected both or neither")


def _mean(key: str, names: set[str]) -> str:
    """The nearest name, where one is near."""
    hint = nearest(key, names)
    return hint if "did you mean" in hint else ""


def _part(path: Path, arrays: dict[str, NDArray[Any]], name: str) -> Part:
    """One part, checked."""
    x, y = arrays[f"x_{name}"], arrays[f"y_{name}"]
    _check_images(f"{path}: x_{name}", x)
    _check_labels(f"{path}: y_{name}", y, len(x))
    return part(x, y)


def _check_images(where: str, x: NDArray[Any]) -> None:
    """Images are uint8 (N, C, H, W), square, and at least one."""
    expected = "expected uint8 (N, C, H, W) from 0 to 255"
    if x.dtype != np.uint8:
        unit = x.dtype.kind == "f" and x.size > 0 and x.min() >= 0 and x.max() <= 1
        hint = "; save np.rint(x * 255).astype(np.uint8)" if unit else ""
        raise UsageError(f"{where} is {x.dtype}; {expected}{hint}")
    if x.ndim != 4:
        hint = "; save x[:, None]" if x.ndim == 3 else ""
        raise UsageError(f"{where} has shape {x.shape}; {expected}{hint}")
    if x.size == 0:
        raise UsageError(f"{where} has shape {x.shape}, which is empty; expected at least one image")
    _, channels, height, width = x.shape
    if height != width and channels == height:
        raise UsageError(
            f"{where} has shape {x.shape}, which looks like NHWC; {expected}; save x.transpose(0, 3, 1, 2)"
        )
    if height != width:
        raise UsageError(f"{where} has shape {x.shape}; {expected} with H = W")


def _check_labels(where: str, y: NDArray[Any], count: int) -> None:
    """Labels are whole numbers from 0, one for each image."""
    if y.dtype.kind not in "iu":
        raise UsageError(f"{where} is {y.dtype}; expected whole numbers (N,), one class index an image")
    if y.shape != (count,):
        hint = "; save y.ravel()" if y.shape == (count, 1) else "; save y.argmax(1)" if y.ndim == 2 else ""
        raise UsageError(f"{where} has shape {y.shape}; expected ({count},), one class index an image{hint}")
    if y.min() < 0 or y.max() >= MAX_CLASSES:
        raise UsageError(f"{where} runs from {y.min()} to {y.max()}; expected class indices from 0")


def _check_alike(path: Path, train: Part, val: Part, test: Part) -> None:
    """All parts hold images of one shape."""
    for name, other in (("x_val", val), ("x_test", test)):
        shape, expected = other.x.shape[1:], train.x.shape[1:]
        if shape != expected:
            raise UsageError(f"{path}: {name} holds images of {shape}; expected {expected}, as in x_train")


def _classes(path: Path, named: NDArray[Any] | None, parts: tuple[Part, ...]) -> tuple[str, ...]:
    """The names given, or else numbers up to the largest label."""
    count = max(int(p.y.max()) for p in parts) + 1
    if named is None:
        names = tuple(str(i) for i in range(count))
    elif named.dtype.kind != "U" or named.ndim != 1:
        found = f"{named.dtype} of shape {named.shape}"
        raise UsageError(f"{path}: classes is {found}; expected a row of text, one name a class")
    else:
        names = tuple(str(name) for name in named)
    least = max(2, count)
    if len(names) < least:
        raise UsageError(
            f"{path} has {len(names)} classes and labels up to {count - 1}; expected {least} or more classes"
        )
    return names
