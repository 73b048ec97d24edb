"""Tiny-ImageNet-200, in the files of its publication."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from bench import Dataset, IncompleteError, IntegrityError, Part, PublishedFile, dataset, unpack
from data._listing import images
from data._official import missing_images
from data._parts import missing, nothing, order
from data._prepared import Crop, Labelled, prepared

FOLDER = "tiny-imagenet-200"
SPOILT = "Tiny-ImageNet-C"
SIZE = 64
COUNTS = {"train": 100_000, "val": 10_000}
VAL = 1_000
DOWNLOAD = PublishedFile(
    "tiny-imagenet-200.zip", "md5:90528d7ca1a48142e341f4ef8d21d0de", size=248_100_043,
    urls=(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "https://huggingface.co/datasets/cnak47/cv-datasets/resolve/main/tiny-imagenet-200.zip",
    ),
    unpack=unpack, gives=(f"{FOLDER}/wnids.txt", f"{FOLDER}/train", f"{FOLDER}/val"),
    page="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
)  # fmt: skip


@dataset(net="resnet18", threat="linf:8/255", downloads=(DOWNLOAD,), name="tiny-imagenet-200")
def tiny_imagenet_200(root: Path, *, train: bool = True) -> Dataset:
    """Tiny-ImageNet-200 (Stanford, 2015): 64x64 colour, 200 classes; 99,000 train, 1,000 validate, 10,000 test.

    The test images are the official validation images, whose labels are public.  With train=False they are all that
    is needed and all that is loaded.
    """
    folder = root / FOLDER
    wnids, names = _classes(folder, root)
    crop = Crop(SIZE)
    test = prepared(root, f"{FOLDER}-test", crop, partial(_official_val, folder, wnids, root))
    spoilt = cache(partial(_spoilt, root, wnids, crop))
    if not train:
        return Dataset(FOLDER, nothing(test), nothing(test), test, names, spoilt)
    training, val = (
        prepared(root, f"{FOLDER}-{name}", crop, partial(_train, folder, wnids, root, cut))
        for name, cut in (("train", slice(VAL, None)), ("val", slice(VAL)))
    )
    return Dataset(FOLDER, training, val, test, names, spoilt)


def _classes(folder: Path, root: Path) -> tuple[list[str], tuple[str, ...]]:
    """WordNet's ids, sorted as torchvision numbers the classes, and their words."""
    absent = [name for name in ("wnids.txt", "words.txt") if not (folder / name).is_file()]
    if absent:
        raise missing(FOLDER, folder, [*absent, "train", "val"], root)
    wnids = sorted((folder / "wnids.txt").read_text().split())
    words = dict(line.split("\t", 1) for line in (folder / "words.txt").read_text().splitlines() if "\t" in line)
    if len(wnids) != 200 or not set(wnids) <= set(words):
        raise IntegrityError(
            f"{folder}: wnids.txt names {len(wnids)} classes, {len(set(wnids) - set(words))} of them not in words.txt; "
            "expected 200, all there; fetch it again"
        )
    return wnids, tuple(words[wnid] for wnid in wnids)


def _train(folder: Path, wnids: list[str], root: Path, cut: slice) -> Labelled:
    """Some of the training images in the order of the seed-0 permutation, of which the first validate."""
    if not (folder / "train").is_dir():
        error = missing(FOLDER, folder, ["train"], root)
        raise IncompleteError(f"{error};\nto examine a model without it, name {FOLDER}(train=False)")
    found = images(folder / "train", wnids)
    _count(folder / "train", found, "train")
    return [found[place] for place in order(len(found))][cut]


def _official_val(folder: Path, wnids: list[str], root: Path) -> Labelled:
    """The official validation images in the order of their numbers.

    Their labels are in a list; where someone has sorted them into class folders, the folders tell.
    """
    inside, listed = folder / "val", folder / "val" / "val_annotations.txt"
    if not inside.is_dir():
        raise missing(FOLDER, folder, ["val"], root)
    if (inside / "images").is_dir() and listed.is_file():
        places = {wnid: label for label, wnid in enumerate(wnids)}
        rows = [line.split("\t") for line in listed.read_text().splitlines()]
        if any(len(row) < 2 or row[1] not in places for row in rows):
            raise IntegrityError(f"{listed} has lines that are not an image's name and a class; fetch it again")
        found = [(inside / "images" / row[0], places[row[1]]) for row in rows]
    else:
        found = list(images(inside, wnids))
    _count(inside, found, "val")
    return sorted(found, key=_number)


def _spoilt(root: Path, wnids: list[str], crop: Crop, name: str, severity: int) -> Part:
    """The images of Tiny-ImageNet-C, a folder a class, in the order of their numbers."""
    folder = root / SPOILT / name / str(severity)

    def files() -> Labelled:
        if not folder.is_dir():
            raise missing_images(SPOILT, folder, f"{wnids[0]} and 199 more folders of images")
        found = images(folder, wnids)
        _count(folder, found, "val")
        return sorted(found, key=_number)

    return prepared(root, f"{SPOILT}-{name}-{severity}", crop, files)


def _number(file: tuple[Path, int]) -> int:
    """The number in an image's name."""
    return int("".join(filter(str.isdigit, file[0].stem)) or -1)


def _count(folder: Path, files: Labelled, name: str) -> None:
    """All images are there: the same number of each class."""
    absent = [path for path, _ in files if not path.is_file()]
    if len(files) != COUNTS[name] or absent:
        what = f"lacks {absent[0].name} and {len(absent) - 1:,} more" if absent else f"has {len(files):,} images"
        raise IntegrityError(
            f"{folder} {what}; expected {COUNTS[name]:,}, {COUNTS[name] // 200} a class; fetch it again"
        )
