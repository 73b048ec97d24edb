"""Folders of image files, a folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data._prepared import Labelled

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders, sorted, as torchvision numbers them."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def images(folder: Path, classes: Sequence[str]) -> Labelled:
    """Every image file below the class folders, by class, then by name."""
    found = []
    for label, name in enumerate(classes):
        paths = (path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        found += [(path, label) for path in sorted(paths) if not path.name.startswith(".")]
    return found
