"""Draws what an attack did to single images: before, after, and the difference times ten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leaderboard.canvas import GAP, ROW, Drawing, draw, fit, heads, levels, picture, side_of, where
from leaderboard.drawing import tag, text
from leaderboard.words import short

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench import Picture

SAID = (
    "Each image as it was, as the record's bundle holds it, and ten times the difference, where the middle gray is "
    "none; with what the model took both for. Of an image that stands a bundle holds nothing."
)
TIMES = 10


def drawings(found: Picture, arrays: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> list[Drawing]:
    """One drawing: a row for each image."""
    images = arrays["images"]
    side = side_of(images.shape[2], 3)
    cell = max(side, 112) + GAP
    top, high = 62, side + ROW + 2 * GAP
    attack = short(str(found.settings["attack"])).partition("(")[0]
    what = f"{attack} within {found.settings['threat']} against {heads(found)[0]}"
    wide = 3 * cell - GAP
    spoilt = "" if found.settings["condition"] == "clean" else f", {short(str(found.settings['condition']))}"
    parts = [text(0, 14, fit(f"{attack} within {found.settings['threat']}{spoilt}", wide), class_="title")]
    parts.append(text(0, 32, fit(f"against {heads(found)[0]}", wide)))
    heads_ = ("image", "adversarial", "difference × 10")
    parts += [text(column * cell, top - 10, head, class_="head") for column, head in enumerate(heads_)]
    for row, place in enumerate(found.images):
        y = top + row * high
        label, first, last = (int(arrays[name][row]) for name in ("labels", "predicted", "taken_for"))
        before = f"{place}: {classes[label]}" + ("" if first == label else f", read as {classes[first]}")
        style = "name" if first == label else "wrong"
        parts.append(text(0, y + ROW - 4, fit(before, cell, 5.8), class_=f"{style} small"))
        parts.append(picture(0, y + ROW, side, levels(images[row]), f"test image {place}, {classes[label]}"))
        if not arrays["fell"][row]:
            parts.append(tag("rect", x=cell, y=y + ROW, width=side, height=side, class_="frame"))
            parts.append(text(cell + side / 2, y + ROW + side / 2 + 4, "stands", "middle"))
            continue
        said = f"→ {classes[last]}, {float(arrays['distance'][row]):.3g} away"
        parts.append(text(cell, y + ROW - 4, fit(said, cell, 5.8), class_="wrong small"))
        adversarial = arrays["adversarial"][row]
        parts.append(picture(cell, y + ROW, side, levels(adversarial), f"taken for {classes[last]}"))
        parts.append(picture(2 * cell, y + ROW, side, difference(images[row], adversarial), "difference times ten"))
    fell = int(arrays["fell"].sum())
    caption = f"Examples of {what}, {where(found)}"
    words = f"{len(found.images)} test images of {found.dataset}{spoilt} and what {what} made of them: {fell} fell."
    return [draw("", caption, words, (wide, top + len(found.images) * high), *parts)]


def difference(image: NDArray[np.floating[Any]], adversarial: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Ten times what was added, about the middle gray, clipped: (C, H, W) to pixels."""
    return levels(0.5 + TIMES * (adversarial.astype(np.float64) - image.astype(np.float64)))
