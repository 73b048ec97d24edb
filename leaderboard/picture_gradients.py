"""Draws gradients of the loss by the pixels: a row for each image, a column for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leaderboard.canvas import GAP, ROW, Drawing, diverging, draw, fit, heads, levels, listed, picture, side_of, where
from leaderboard.drawing import text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench import Picture

SAID = (
    "The gradient of the cross-entropy with the true label, clipped at three standard deviations: what would raise "
    "the loss most. Gray images: blue where more light raises it, red where it lowers it; colour images: a channel is "
    "above the middle gray where more of it raises the loss. TV is the total variation over the sum of absolute "
    "values, edges the cosine with the strength of the image's edges; neither changes if the gradient is scaled."
)
CLIP = 3.0  # standard deviations


def drawings(found: Picture, arrays: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> list[Drawing]:
    """One drawing: the images, and beside each the gradients of all models."""
    images, gradients = arrays["images"], arrays["gradients"]
    names = heads(found)
    columns = len(names) + 1
    side = side_of(images.shape[2], columns)
    cell = max(side, 96) + GAP
    top, high = 44, side + 2 * ROW + GAP
    numbers = {(row[0], row[1]): row for row in reversed(found.rows)}
    parts = [text(0, 14, "Gradient of the loss by the pixels", class_="title")]
    for column, name in enumerate(["image", *names]):
        parts.append(text(column * cell, top - 8, fit(name, cell), class_="head"))
    for row, place in enumerate(found.images):
        y = top + row * high
        label = classes[int(arrays["labels"][row])]
        parts.append(picture(0, y, side, levels(images[row]), f"test image {place}, {label}"))
        parts.append(text(0, y + side + ROW - 2, fit(f"{place}: {label}", cell), class_="name"))
        for column, (model, name) in enumerate(zip(found.models, names, strict=True)):
            x = (column + 1) * cell
            parts.append(picture(x, y, side, shown(gradients[column, row]), f"gradient of {name}"))
            parts.append(_frame(x, y, side))
            known = numbers[model.short, str(place)]
            at = f"TV {_number(known[4])}, edges {_number(known[5])}"
            parts.append(text(x, y + side + ROW - 2, fit(at, cell, 5.8), class_="small"))
            if not gradients[column, row].any():
                parts.append(text(x + side / 2, y + side / 2, "zero", "middle"))
    caption = f"Gradients of the loss, {where(found)}"
    size = (columns * cell - GAP, top + len(found.images) * high)
    return [draw("", caption, _said(found, names), size, *parts)]


def shown(gradient: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """A gradient (C, H, W) as pixels: (1 + g / 3 sigma) / 2 of colours, blue and red of gray; clipped at 3 sigma."""
    values = gradient.astype(np.float64)
    most = CLIP * values.std()
    scaled = np.clip(values / most, -1, 1) if most > 0 else np.zeros_like(values)
    return levels((1 + scaled) / 2) if len(values) == 3 else diverging(scaled.mean(0))


def _frame(x: float, y: float, side: float) -> str:
    return f'<rect x="{x}" y="{y}" width="{side}" height="{side}" class="frame"/>'


def _number(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "–"


def _said(found: Picture, names: Sequence[str]) -> str:
    """The drawing in words: which models, and their means."""
    means = [
        f"{row[0]}: total variation {_number(row[4])}, edge alignment {_number(row[5])}"
        for row in found.rows if str(row[1]).startswith("mean")
    ]  # fmt: skip
    places = listed([str(p) for p in found.images])
    n = found.settings.get("n")
    return f"Test images {places} and the gradients of {listed(names)}. Means of the first {n}: {'; '.join(means)}."
