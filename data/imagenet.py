"""ImageNet (ILSVRC 2012), RobustBench's 5,000 of its images, and Restricted ImageNet."""

from __future__ import annotations

import hashlib
import io
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import IO, Literal

from bench import Dataset, IncompleteError, IntegrityError, Part, PublishedFile, UsageError, dataset
from data._listing import class_folders, images
from data._parts import few, nothing, order
from data._prepared import Crop, Labelled, prepared

FOLDER = "imagenet"
PAGE = "https://image-net.org/download-images (sign in there first)"
# sha256 of the 1,000 WordNet ids, sorted, a line each without the last line's end: torchvision numbers classes so.
WNIDS = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
COUNTS = {"train": 1_281_167, "val": 50_000}
VAL, RESTRICTED_VAL = 10_000, 1_000
SUBSET = ("robustbench", "robustbench/helper_files/imagenet_test_image_ids.txt")  # distribution and file in it
# Restricted ImageNet's classes (Tsipras et al., arXiv:1805.12152), first and last of ImageNet's in each.
SUPER_CLASSES = {
    "dog": (151, 268), "cat": (281, 285), "frog": (30, 32), "turtle": (33, 37), "bird": (80, 100),
    "primate": (365, 382), "fish": (389, 397), "crab": (118, 121), "insect": (300, 319),
}  # fmt: skip


def unpack_val(archive: Path, into: Path, root: Path) -> None:
    """The tar of validation images to val/CLASS/…; their classes are told by the development kit."""
    wnids = read_devkit(root / FOLDER / DEVKIT.file)
    for name, file in _members(archive):
        found = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", name)
        if found is None or not 0 < int(found[1]) <= len(wnids):
            raise IntegrityError(f"{archive} holds {name!r}; expected ILSVRC2012_val_00000001.JPEG and so on")
        _write(file, into / "val" / wnids[int(found[1]) - 1] / name)


def unpack_train(archive: Path, into: Path, _root: Path) -> None:
    """The tar of tars of training images to train/CLASS/… below `into`."""
    for outer, packed in _members(archive):
        wnid = outer.removesuffix(".tar")
        if not re.fullmatch(r"n\d{8}", wnid):
            raise IntegrityError(f"{archive} holds {outer!r}; expected n01440764.tar and so on")
        with tarfile.open(fileobj=packed, mode="r|") as inner:
            for name, file in _files(inner):
                if not re.fullmatch(r"n\d{8}_\d+\.JPEG", name):
                    raise IntegrityError(f"{archive} holds {name!r} in {outer}; expected {wnid}_10026.JPEG and so on")
                _write(file, into / "train" / wnid / name)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The files of a tar, one after another."""
    try:
        with tarfile.open(archive, "r:*") as tar:
            yield from _files(tar)
    except (tarfile.TarError, EOFError) as error:
        raise IntegrityError(f"{archive} is not a whole archive ({error}); get it again") from error


def _files(tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for member in tar:
        file = tar.extractfile(member) if member.isreg() else None
        if file is not None:
            yield member.name, file


def _write(file: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as target:
        shutil.copyfileobj(file, target)


def read_devkit(path: Path) -> list[str]:
    """The WordNet id of each validation image, in the order of their numbers."""
    from scipy.io import loadmat

    if not path.is_file():
        raise IncompleteError(f"{path} is missing: it tells the classes; give it too: --from-file {path.name}")
    inside = {Path(name).name: file.read() for name, file in _members(path) if name.endswith((".mat", ".txt"))}
    try:
        synsets = loadmat(io.BytesIO(inside["meta.mat"]), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        return [wnids[int(line)] for line in inside["ILSVRC2012_validation_ground_truth.txt"].split()]
    except Exception as error:  # a damaged file can raise nearly anything
        raise IntegrityError(f"{path} is not the development kit of ILSVRC 2012 ({error!r})") from error


DEVKIT = PublishedFile(
    "ILSVRC2012_devkit_t12.tar.gz", "md5:fa75699e90414af021442c21a62c3abf",
    into=FOLDER, gives=(f"{FOLDER}/val",), page=PAGE,
)  # fmt: skip
DOWNLOADS = (
    DEVKIT,
    PublishedFile(
        "ILSVRC2012_img_val.tar", "md5:29b22e2961454d5413ddabcf34fc5622",
        into=FOLDER, unpack=unpack_val, gives=(f"{FOLDER}/val",), page=PAGE,
    ),
    PublishedFile(
        "ILSVRC2012_img_train.tar", "md5:1d675b47d978889d74fa0da5fadfb00e",
        into=FOLDER, unpack=unpack_train, gives=(f"{FOLDER}/train",), page=PAGE,
    ),
)  # fmt: skip


@dataset(net="torchvision(name='resnet50')", threat="linf:4/255", downloads=DOWNLOADS)
def imagenet(
    root: Path, *, size: int = 224, resize: int = 0, interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    subset: Literal["", "robustbench-5000"] = "", train: bool = False,
) -> Dataset:  # fmt: skip
    """ImageNet (ILSVRC 2012): the 50,000 official validation images are the test part, in the order of their numbers.

    The shorter side is brought to `resize` pixels (0: 256/224 of the size) and the middle cut out.  subset: the 5,000
    that RobustBench examines, in its order.  train=True: 1,271,167 training images and 10,000 that validate are decoded
    to files of size x size x 3 bytes an image (193 GB at 224, 16 GB at 64).
    """
    crop = _crop(size, resize, interpolation)
    name = f"{FOLDER}-{subset}" if subset else FOLDER
    files = partial(_robustbench, root) if subset else partial(_official_val, root)
    test = prepared(root, name if subset else f"{FOLDER}-test", crop, files)
    return Dataset(name, *_trained(root, FOLDER, crop, test, partial(_train, root), VAL, train), test, _names())


@dataset(
    net="torchvision(name='resnet50')", threat="linf:0.005", downloads=DOWNLOADS, paper="arXiv:1805.12152"
)  # fmt: skip
def restricted_imagenet(
    root: Path, *, size: int = 224, resize: int = 0, interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    train: bool = False, train_images: int = 0,
) -> Dataset:  # fmt: skip
    """Restricted ImageNet (Tsipras et al., 2019): 203 classes of ImageNet in 9; 10,150 official validation images test.

    train=True: the training images of these classes but 1,000, which validate, are decoded to files of
    size x size x 3 bytes an image (about 39 GB at 224).  train_images: so many of them, read into memory; 0 is all.
    """
    name, crop = "restricted-imagenet", _crop(size, resize, interpolation)
    test = prepared(root, f"{name}-test", crop, lambda: restricted(_official_val(root)))
    parts = _trained(root, name, crop, test, lambda: restricted(_train(root)), RESTRICTED_VAL, train)
    learnt = f"{name}(train=True, train_images={train_images})"
    return few(Dataset(name, *parts, test, tuple(SUPER_CLASSES)), train_images, learnt)


def _crop(size: int, resize: int, interpolation: str) -> Crop:
    """The steps of the usual evaluation."""
    wanted = resize or round(size * 256 / 224)
    if not 8 <= size <= wanted <= 4096:
        raise UsageError(f"size={size}, resize={wanted}: expected 8 <= size <= resize <= 4096")
    return Crop(size, wanted, interpolation)


def _trained(
    root: Path, name: str, crop: Crop, test: Part, files: Callable[[], Labelled], count: int, train: bool
) -> tuple[Part, Part]:
    """Train and val, empty where they are not asked for; of the seed-0 permutation the first `count` validate."""
    if not train:
        return nothing(test), nothing(test)

    def cut(where: slice) -> Labelled:
        found = files()
        return [found[place] for place in order(len(found))[where]]

    return (
        prepared(root, f"{name}-train", crop, lambda: cut(slice(count, None))),
        prepared(root, f"{name}-val", crop, lambda: cut(slice(count))),
    )


def restricted(files: Labelled) -> Labelled:
    """The images of the nine classes, labelled by them."""
    label = {i: k for k, (first, last) in enumerate(SUPER_CLASSES.values()) for i in range(first, last + 1)}
    return [(path, label[y]) for path, y in files if y in label]


def _official_val(root: Path) -> Labelled:
    """The official validation images in the order of their numbers, which mixes the classes."""
    folder = _part_folder(root, "val")
    found = images(folder, _wnids(folder))
    _count(folder, len(found), "val")
    return sorted(found, key=lambda file: file[0].name)


def _train(root: Path) -> Labelled:
    """The training images by class and name."""
    folder = _part_folder(root, "train")
    found = images(folder, _wnids(folder))
    _count(folder, len(found), "train")
    return found


def _robustbench(root: Path) -> Labelled:
    """RobustBench's images in its order; its list is read in its distribution, which is not imported."""
    owner, inside = SUBSET
    try:
        names = Path(str(distribution(owner).locate_file(inside))).read_text(encoding="ascii").split()
    except (PackageNotFoundError, OSError) as error:
        raise IncompleteError(f"the list of the subset comes with {owner}: pip install {owner} ({error})") from None
    if len(set(names)) != 5_000 or not all(re.fullmatch(r"n\d{8}/ILSVRC2012_val_\d{8}\.JPEG", n) for n in names):
        raise IntegrityError(f"{owner}'s list {inside} has {len(set(names)):,} images; expected 5,000 of ImageNet's")
    folder = _part_folder(root, "val")
    place = {wnid: label for label, wnid in enumerate(_wnids(folder))}
    found = [(folder / name, place[name.partition("/")[0]]) for name in names]
    absent = [path for path, _ in found if not path.is_file()]
    if absent:
        raise IncompleteError(f"{len(absent):,} of RobustBench's 5,000 images are not there, {absent[0]} for one")
    return found


def _part_folder(root: Path, name: str) -> Path:
    """The folder of a part, or an error that says how it is laid out and had."""
    folder = root / FOLDER / name
    if folder.is_dir():
        return folder
    raise IncompleteError(
        f"imagenet is not in {folder}: expected 1,000 class folders there, n01440764/ and so on; link yours "
        f"there, or unpack the official files, which need an account at {PAGE}:\n"
        f"    bench fetch imagenet --data {shlex.quote(str(root))} "
        f"--from-file {DEVKIT.file} --from-file ILSVRC2012_img_{name}.tar"
    )


def _wnids(folder: Path) -> list[str]:
    """The class folders, which must be exactly ImageNet's."""
    found = [name for name in class_folders(folder) if re.fullmatch(r"n\d{8}", name)]
    if hashlib.sha256("\n".join(found).encode()).hexdigest() != WNIDS:
        raise IntegrityError(
            f"{folder} has {len(found):,} class folders that are not ImageNet's 1,000; for other images, "
            "folder(path=…) takes any classes"
        )
    return found


def _count(folder: Path, found: int, name: str) -> None:
    if found != COUNTS[name]:
        raise IntegrityError(f"{folder} has {found:,} images; expected {COUNTS[name]:,}")


def _names() -> tuple[str, ...]:
    """The names of the classes, as torchvision has them."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
