"""Draws for what images were taken: a matrix for each model and column; and the weights of classes over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from leaderboard.canvas import Drawing, draw, fit, heads, picture
from leaderboard.drawing import LETTER, tag, text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench import Picture

SAID = (
    "For what the images of each class were taken: a row a class, a column a reading; what stands is on the diagonal. "
    "The shade is the square root of the share of the row. A fallen image counts by the reading of the attack that "
    "felled it. Of methods that weigh images: the sum of the weights of each class, epoch by epoch."
)
MANY = 20  # classes, from which on there are no names and numbers in the matrix
STRONGEST = 0.6  # of a shade, so that numbers can be read on it
ACCENT, WARN = (52, 126, 204), (203, 102, 36)  # seen on white and on black alike
STYLE = ".heat.wrong{fill:var(--warn)}"


def drawings(found: Picture, arrays: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> list[Drawing]:
    """All matrices; and a drawing of the weights of each model that has some."""
    made = [_matrices(found, arrays, classes)]
    for place, name in enumerate(heads(found)):
        if f"weights_{place}" in arrays:
            which = found.models[place].weights[:7]
            epochs, weights = arrays[f"epochs_{place}"], arrays[f"weights_{place}"]
            made.append(_weights(found, name, f"weights-{which}", epochs, weights, classes))
    return made


def _matrices(found: Picture, arrays: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> Drawing:
    """A row of matrices for each model, a column of them for each column."""
    counts, untold = arrays["counts"], arrays["untold"]
    columns = found.settings["columns"]
    if not isinstance(columns, list) or counts.shape[1] != len(columns) or counts.shape[2] != len(classes):
        raise ValueError(f"matrices of shape {counts.shape}, for columns {columns!r} and {len(classes)} classes")
    names = heads(found)
    few = len(classes) <= MANY
    side = (28 if len(classes) <= 10 else 22) if few else max(1, min(4, 480 // len(classes)))
    left = min(96.0, 14 + LETTER * max(map(len, classes))) if few else 24.0
    width = max(left + side * len(classes) + 24, 260.0)
    high = 26 + left + side * len(classes) + 36
    parts = [text(0, 14, f"For what images were taken, {found.dataset}", class_="title")]
    said = []
    for m, name in enumerate(names):
        for c, column in enumerate(columns):
            x, y = c * width, 30 + m * high
            one = counts[m, c]
            parts.append(text(x, y + 12, fit(f"{name}: {column}", width - 8), class_="head"))
            draw_one = _numbered if few else _shaded
            parts += draw_one(x + left, y + 20 + left, side, one, classes)
            right, total = int(np.trace(one)), int(one.sum() + untold[m, c])
            beneath = f"{right:,} of {total:,} read right"
            beneath += f"; of {int(untold[m, c])} no reading is known" if untold[m, c] else ""
            parts.append(text(x + left, y + 20 + left + side * len(classes) + 16, beneath, class_="small"))
            said.append(f"{name} under {column}: {beneath}; {_worst(one, classes)}")
    size = (len(columns) * width, 30 + len(names) * high)
    caption = f"For what images were taken under {', '.join(map(str, columns))}, {found.dataset}"
    return draw("", caption, ". ".join(said) + ".", size, *parts, style=STYLE)


def _worst(one: NDArray[Any], classes: Sequence[str]) -> str:
    """The three most frequent mistakes in words."""
    wrong = one - np.diag(np.diag(one))
    order = np.argsort(-wrong, axis=None, kind="stable")[:3]
    pairs = [(int(i) // len(classes), int(i) % len(classes)) for i in order]
    said = [f"{classes[a]} for {classes[b]} {int(wrong[a, b])} times" for a, b in pairs if wrong[a, b]]
    return f"most often taken: {', '.join(said)}" if said else "no mistakes"


def shade(one: NDArray[Any]) -> NDArray[np.float64]:
    """How strongly each cell of a matrix is drawn: the square root of its share of the row."""
    total = one.sum(1, keepdims=True).astype(np.float64)
    share = np.divide(one, total, out=np.zeros(one.shape), where=total > 0)
    found: NDArray[np.float64] = np.sqrt(share)
    return found


def _numbered(x: float, y: float, side: float, one: NDArray[Any], classes: Sequence[str]) -> list[str]:
    """A matrix of few classes: names at both edges, numbers in the cells."""
    parts, strength = [], STRONGEST * shade(one)
    for k, name in enumerate(classes):
        at = x + side * (k + 0.5)
        if LETTER * len(name) > side:
            turned = f"rotate(-90 {at + 4:.1f} {y - 5:.1f})"
            parts.append(tag("text", escape(fit(name, 88)), x=at + 4, y=y - 5, transform=turned))
        else:
            parts.append(text(at, y - 5, name, "middle"))
        parts.append(text(x - 6, y + side * (k + 0.5) + 4, fit(name, 88), "end"))
    for i, j in zip(*np.nonzero(one), strict=True):
        count = int(one[i, j])
        style = "heat" if i == j else "heat wrong"
        parts.append(
            tag("rect", x=x + side * int(j), y=y + side * int(i), width=side - 1, height=side - 1, class_=style,
                fill_opacity=f"{strength[i, j]:.2f}")
        )  # fmt: skip
        middle = x + side * (int(j) + 0.5) - 0.5
        small = "name small" if count > 99 else "name"
        parts.append(text(middle, y + side * (int(i) + 0.5) + 4, str(count), "middle", small))
    return parts


def _shaded(x: float, y: float, side: float, one: NDArray[Any], classes: Sequence[str]) -> list[str]:
    """A matrix of many classes: shades alone, and what its edges are."""
    opacity = np.rint(255 * shade(one))
    colour = np.where(np.eye(len(classes), dtype=bool)[:, :, None], np.array(ACCENT), np.array(WARN))
    pixels = np.concatenate([colour, opacity[:, :, None]], 2).astype(np.uint8)
    wide = side * len(classes)
    turned = f"rotate(-90 {x - 6:.1f} {y + wide:.1f})"
    return [
        picture(x, y, wide, np.repeat(np.repeat(pixels, int(side), 0), int(side), 1), f"{len(classes)} classes"),
        tag("rect", x=x, y=y, width=wide, height=wide, class_="frame"),
        text(x, y - 5, f"taken for: {len(classes)} classes in order"),
        tag("text", "class", x=x - 6, y=y + wide, transform=turned),
    ]


def _weights(
    found: Picture, name: str, id_: str, epochs: NDArray[Any], weights: NDArray[Any], classes: Sequence[str]
) -> Drawing:  # fmt: skip
    """A heat map: a row a class, a column an epoch; the strongest is the largest sum of all."""
    few = len(classes) <= MANY
    high = 20.0 if few else max(2.0, min(4.0, 480 / len(classes)))
    left = min(110.0, 14 + LETTER * max(map(len, classes))) if few else 24.0
    wide = max(4.0, min(36.0, 560 / len(epochs)))
    most = float(np.nanmax(np.abs(weights))) or 1.0
    top = 48
    parts = [text(0, 14, f"Sum of the weights of each class by epoch: {name}", class_="title")]
    for k, label in enumerate(classes):
        y = top + high * k
        if few:
            parts.append(text(left - 6, y + 14, fit(label, 104), "end"))
        for e in range(len(epochs)):
            value = float(weights[e, k])
            parts.append(
                tag("rect", f"<title>{escape(label)}, epoch {int(epochs[e])}: {value:.4g}</title>", x=left + wide * e,
                    y=y, width=wide - 0.5, height=high - (1 if few else 0), class_="heat",
                    fill_opacity=f"{max(0.0, value) / most:.3f}")
            )  # fmt: skip
        if few:
            parts.append(text(left + wide * len(epochs) + 6, y + 14, f"{float(weights[-1, k]):.4g}", class_="small"))
    every = max(1, int(np.ceil(28 / wide)))
    parts += [
        text(left + wide * (e + 0.5), top - 6, str(int(epochs[e])), "middle") for e in range(0, len(epochs), every)
    ]
    order = np.argsort(weights[-1], kind="stable")
    said = (
        f"From epoch {int(epochs[0])} to {int(epochs[-1])}. In the last, {classes[int(order[-1])]} has most, "
        f"{weights[-1].max():.4g}, and {classes[int(order[0])]} least, {weights[-1].min():.4g}."
    )
    caption = f"Weights of classes over training: {name}, {found.dataset}"
    size = (max(left + wide * len(epochs) + 70, 560), top + high * len(classes) + 12)
    return draw(id_, caption, said, size, *parts)
