"""The user's own image files, a folder a class, as torchvision's ImageFolder reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from bench import Dataset, UsageError, dataset, nearest
from data._listing import SUFFIXES, class_folders, images
from data._parts import nothing, order
from data._prepared import Crop, Labelled, prepared

MAX_VAL = 1_000


@dataset(net="resnet18", threat="linf:8/255")
def folder(root: Path, *, path: str, size: int = 0, channels: Literal[3, 1] = 3, train: bool = True) -> Dataset:
    """Your own images: path/train/CLASS/…, and path/test/CLASS/… or path/val/CLASS/…; any format that Pillow reads.

    With test and val, val validates; with one of them, it is the test part, and the first tenth (at most 1,000) of a
    seed-0 permutation of the training images validates.  Test images stand in the order of such a permutation, so that
    the first N are of all classes.  size: the shorter side is brought to it and the middle cut out; 0: the images are
    square and of one size already.  train=False: only the test part is there and loaded.
    """
    home = _find(root, path)
    inside = {name: home / name for name in ("train", "val", "test") if (home / name).is_dir()}
    if "test" not in inside:
        inside["test"] = inside.pop("val", home / "test")
    for name in ("train", "test") if train else ("test",):
        if not inside.get(name, home / name).is_dir():
            hint = "; folder(train=False) examines a model without it" if name == "train" else " (or val/)"
            raise UsageError(
                f"folder(path={path!r}): {home} has no folder {name}/{hint}; expected a folder a class in it"
            )
    classes = class_folders(inside["train" if train else "test"])
    lists = {name: _list(inside[name], classes) for name in inside if train or name == "test"}
    return _decoded(root, home, classes, _cut(lists), Crop(size or _side(lists["test"]), size, channels=channels))


def _decoded(root: Path, home: Path, classes: list[str], lists: dict[str, Labelled], crop: Crop) -> Dataset:
    """The data set, decoded at its first use and again when a file has changed."""
    mark = hashlib.sha256()
    for name, files in lists.items():
        for file, label in files:
            about = file.stat()
            mark.update(repr((name, str(file), label, about.st_size, about.st_mtime_ns)).encode())

    def given(files: Labelled) -> Callable[[], Labelled]:
        return lambda: files

    parts = {
        name: prepared(root, f"folder-{mark.hexdigest()[:16]}-{name}", crop, given(files))
        for name, files in lists.items()
    }
    test = parts["test"]
    train, val = parts.get("train", nothing(test)), parts.get("val", nothing(test))
    return Dataset(f"folder:{home.name}", train, val, test, tuple(classes))


def _find(root: Path, path: str) -> Path:
    """The folder as named, or else under the data folder."""
    named = Path(path).expanduser()
    for home in (named, root / named):
        if home.is_dir():
            return home.resolve()
    there = {entry.name for entry in (root / named).parent.glob("*") if entry.is_dir()}
    raise UsageError(
        f"folder(path={path!r}): there is no such folder; looked in {named.resolve().parent} and "
        f"{(root / named).resolve().parent}{nearest(named.name, there)}"
    )


def _list(inside: Path, classes: list[str]) -> Labelled:
    """The images of a part, each class of which must be known."""
    for name in class_folders(inside):
        if name not in classes:
            raise UsageError(f"{inside / name} is no class of the training images{nearest(name, classes)}")
    if len(classes) < 2:
        raise UsageError(f"{inside} has {len(classes)} class folders; expected two or more")
    found = images(inside, classes)
    if not found:
        raise UsageError(f"{inside} holds no images; expected files ending in {', '.join(SUFFIXES)} in class folders")
    return found


def _cut(lists: dict[str, Labelled]) -> dict[str, Labelled]:
    """The lists, permuted; training images validate where nothing else does."""
    cut: dict[str, Labelled] = {name: [files[place] for place in order(len(files))] for name, files in lists.items()}
    if "train" in cut and "val" not in cut:
        count = min(MAX_VAL, max(1, len(cut["train"]) // 10))
        if len(cut["train"]) < 2:
            raise UsageError("the folder train/ has one image; expected two or more, as some must validate")
        cut["val"], cut["train"] = cut["train"][:count], cut["train"][count:]
    return cut


def _side(files: Labelled) -> int:
    """The side of the first image, which all must have."""
    from PIL import Image, UnidentifiedImageError

    path = files[0][0]
    try:
        with Image.open(path) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise UsageError(f"{path} is not an image file that Pillow reads") from None
    if width != height:
        raise UsageError(
            f"{path} has {width}x{height} pixels; expected square images, or folder(…, size=…) to cut them"
        )
    return int(width)
