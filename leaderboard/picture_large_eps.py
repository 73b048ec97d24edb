"""Draws adversarial images of a size that people see: a drawing a norm, a row for each image, a column a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leaderboard.canvas import GAP, ROW, Drawing, draw, fit, heads, levels, listed, picture, side_of, where
from leaderboard.drawing import text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench import Picture

SAID = (
    "Each image after steps that raise the cross-entropy with its label, within a radius that people see; above each "
    "picture what the model takes it for, and with what probability. A tick says that the label is still read, "
    "and an arrow begins at what an image was taken for that was misread before."
)


def drawings(found: Picture, arrays: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> list[Drawing]:
    """A drawing for each radius."""
    threats = found.settings["threats"]
    if not isinstance(threats, list):
        raise TypeError("threats is no list")
    return [
        _drawing(found, arrays, classes, str(threat), place, "" if not place else str(threat).partition(":")[0])
        for place, threat in enumerate(threats)
    ]


def _drawing(
    found: Picture, arrays: Mapping[str, NDArray[Any]], classes: Sequence[str], threat: str, at: int, name: str
) -> Drawing:
    images, labels = arrays["images"], arrays["labels"]
    names = heads(found)
    side = side_of(images.shape[2], len(names) + 1)
    cell = max(side, 96) + GAP
    top, high = 44, side + ROW + 2 * GAP
    parts = [text(0, 14, f"Adversarial images within {threat}", class_="title")]
    for column, head in enumerate(["original", *names]):
        parts.append(text(column * cell, top - 10, fit(head, cell), class_="head"))
    for row, place in enumerate(found.images):
        y = top + row * high
        label = int(labels[row])
        parts.append(text(0, y + ROW - 4, fit(f"{place}: {classes[label]}", cell), class_="name"))
        parts.append(picture(0, y + ROW, side, levels(images[row]), f"test image {place}, {classes[label]}"))
        for column, head in enumerate(names):
            taken = int(arrays["taken_for"][at, column, row])
            sure = f"{100 * float(arrays['probability'][at, column, row]):.0f} %"
            x = (column + 1) * cell
            before = int(arrays["predicted"][column, row])
            was = "" if before == label else f"{fit(classes[before], 40)} → "
            said = f"{was}{fit(classes[taken], cell - 52 - 7 * len(was))} {sure}{' ✓' if taken == label else ''}"
            parts.append(text(x, y + ROW - 4, said, class_="name" if taken == label else "wrong"))
            pixels = levels(arrays["adversarial"][at, column, row])
            parts.append(picture(x, y + ROW, side, pixels, f"{head}: taken for {classes[taken]}, {sure}"))
    size = ((len(names) + 1) * cell - GAP, top + len(found.images) * high)
    caption = f"Large adversarial images within {threat}, {where(found)}"
    said = f"Test images {listed([str(p) for p in found.images])} and their adversarial images within {threat} "
    return draw(name, caption, f"{said}for {listed(names)}. {_fallen(arrays, at, names)}", size, *parts)


def _fallen(arrays: Mapping[str, NDArray[Any]], at: int, names: Sequence[str]) -> str:
    """How many of them are misread, in words."""
    labels = arrays["labels"]
    misread = [int((arrays["taken_for"][at, column] != labels).sum()) for column in range(len(names))]
    said = [f"{head} misreads {count}" for head, count in zip(names, misread, strict=True)]
    return f"Of {len(labels)}: {listed(said)}."
