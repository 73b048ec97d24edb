"""Draws the way from an image to its large adversarial example: a strip, the probabilities on it, and an animation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from leaderboard.canvas import GAP, ROW, Drawing, draw, fit, heads, levels, picture, side_of, where
from leaderboard.drawing import Axis, path, tag, text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench import Picture

Arrays = Mapping[str, "NDArray[Any]"]

SAID = (
    "Frames lie on the straight line from the image to its adversarial example; beneath them the probability of each "
    "class that matters on the way, first that of the label."
)
CELL, HIGH, LEFT, RIGHT = 42, 84, 34, 110  # pixels of a frame with its gap, of a plot, and beside it
LINES = ("line", "line l1", "line l2", "line l3")
COLUMNS = 16  # epochs that are drawn; the arrays and the table have all
SECONDS, TIMES = 1.6, 3  # of the animation: there, back and there, less than five seconds in all


def drawings(found: Picture, arrays: Arrays, classes: Sequence[str]) -> list[Drawing]:
    """The strips with their plots, the animation, and the examples over epochs where there are any."""
    names = heads(found)
    label = classes[int(arrays["labels"][0])]
    what = f"test image {found.images[0]} ({label}) of {found.dataset}"
    drawn = [_strips(found, arrays, classes, names, what), _film(found, arrays, classes, names, what)]
    return [*drawn, *([_epochs(found, arrays, classes, names, what)] if "epoch_0" in arrays else [])]


def _strips(found: Picture, arrays: Arrays, classes: Sequence[str], names: Sequence[str], what: str) -> Drawing:
    frames = arrays["frames"]
    count = frames.shape[1]
    wide = LEFT + count * CELL + RIGHT
    high = ROW + 6 + CELL + HIGH + 50
    parts = [text(0, 14, fit(f"From {what} to its adversarial example within {found.settings['threat']}", wide),
                  class_="title")]  # fmt: skip
    said = []
    for row, name in enumerate(names):
        y = 34 + row * high
        parts.append(text(LEFT, y + 4, name, class_="head"))
        parts += [picture(LEFT + i * CELL, y + ROW, CELL - 2, levels(frames[row, i])) for i in range(count)]
        shares, end = arrays["probability"][row], float(arrays["distance"][row][-1])
        parts += _plot(
            shares, int(arrays["labels"][0]), classes, LEFT + CELL / 2 - 1, y + ROW + CELL + 10, (count - 1) * CELL, end
        )
        first, last = int(shares[0].argmax()), int(shares[-1].argmax())
        said.append(
            f"{name}: {classes[first]} with {shares[0, first]:.0%}, at the end {classes[last]} with "
            f"{shares[-1, last]:.0%}"
        )
    caption = f"The way to an adversarial example, {where(found)}, image {found.images[0]}"
    text_said = f"From {what} to its adversarial example in {count} frames. {'; '.join(said)}."
    return draw("", caption, text_said, (wide, 34 + len(names) * high), *parts)


def _plot(
    shares: NDArray[Any], label: int, classes: Sequence[str], left: float, top: float, wide: float, end: float
) -> list[str]:  # fmt: skip
    """Probabilities over distance, under the frames: a line a class, named at its end."""
    across, up = Axis(0, len(shares) - 1, left, left + wide), Axis(0, 1, top + HIGH, top)
    parts = [
        tag("path", d="".join(f"M{left:.1f},{up.at(v):.1f}h{wide:.1f}" for v in (0, 0.5, 1)), class_="hair"),
        *(text(left - 8, up.at(v) + 4, f"{v:.0%}", "end", "small") for v in (0, 0.5, 1)),
        text(left, top + HIGH + ROW, "distance 0", class_="small"),
        text(left + wide, top + HIGH + ROW, f"{end:.3g}", "end", "small"),
    ]
    shares = np.nan_to_num(shares)
    told = telling(shares, label)
    for which, style in zip(told, LINES, strict=False):
        parts.append(path([(across.at(i), up.at(float(v))) for i, v in enumerate(shares[:, which])], style))
    for which, y in zip(told, _apart([up.at(float(shares[-1, c])) for c in told]), strict=True):
        parts.append(text(left + wide + 8, y + 4, fit(classes[which], RIGHT - CELL / 2), class_="name small"))
    return parts


def telling(shares: NDArray[Any], label: int) -> list[int]:
    """The classes to draw: the label, the last and the first that is predicted, then the most probable on the way."""
    ends = [label, int(shares[-1].argmax()), int(shares[0].argmax())]
    others = [int(c) for c in np.argsort(-shares.max(0), kind="stable") if shares[:, c].max() >= 0.05]
    return list(dict.fromkeys([*ends, *others]))[: len(LINES)]


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights of labels, moved down where two would cover each other, and then all up as far as is needed."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    found = list(heights)
    for before, now in pairwise(order):
        found[now] = max(found[now], found[before] + 12)
    over = max(0.0, max(found, default=0.0) - max(heights, default=0.0) - 6)
    return [y - over for y in found]


def _film(found: Picture, arrays: Arrays, classes: Sequence[str], names: Sequence[str], what: str) -> Drawing:
    """A window on each strip, which moves frame by frame; it stands at the end for who wants no motion."""
    frames = arrays["frames"]
    side, count = side_of(frames.shape[3]), frames.shape[1]
    cell = max(side, 96) + GAP
    parts = [text(0, 14, fit(what, cell * (len(names) + 1)), class_="title")]
    label = int(arrays["labels"][0])
    for column, name in enumerate(["original", *names]):
        x = column * cell
        parts.append(text(x, 36, fit(name, cell), class_="head"))
        if not column:
            parts.append(picture(x, 44, side, levels(arrays["images"][0])))
            parts.append(text(x, 44 + side + ROW, fit(classes[label], cell), class_="name"))
            continue
        film = [picture(i * side, 0, side, levels(frames[column - 1, i])) for i in range(count)]
        parts.append(tag("svg", tag("g", *film, class_="film"), x=x, y=44, width=side, height=side))
        last = int(arrays["probability"][column - 1, -1].argmax())
        said = f"ends as {classes[last]}"
        parts.append(text(x, 44 + side + ROW, fit(said, cell), class_="name" if last == label else "wrong"))
    travel = f"transform:translateX(-{(count - 1) * side}px)"
    rest = f".film{{{travel}}}"
    style = (
        f"{rest}@keyframes run{{from{{transform:translateX(0)}}to{{{travel}}}}}"
        f".film{{animation:run {SECONDS}s steps({count},jump-none) {TIMES} alternate both}}"
        "@media(prefers-reduced-motion:reduce){.film{animation:none}}"
    )
    caption = f"The same as an animation of {SECONDS * TIMES:.1f} seconds"
    size = ((len(names) + 1) * cell - GAP, 44 + side + ROW + 8)
    moved = (
        f"{what[0].upper()}{what[1:]} turns into its adversarial example within {found.settings['threat']}, and back"
    )
    words = f"{moved}, for {', '.join(names)}."
    still = draw("animation", caption, words, size, *parts, style=rest)
    return replace(draw("animation", caption, words, size, *parts, style=style), still=still.svg)


def _epochs(found: Picture, arrays: Arrays, classes: Sequence[str], names: Sequence[str], what: str) -> Drawing:
    """A row for each model: the image's example under each snapshot, with what it is taken for."""
    label = int(arrays["labels"][0])
    most = min(COLUMNS, max(len(arrays[f"epoch_{row}"]) for row in range(len(names))))
    side = min(side_of(arrays["images"].shape[2]), 96) if most < 10 else 64
    cell = side + GAP
    high = side + 3 * ROW + 2 * GAP
    parts = [text(0, 14, fit(f"The adversarial example of {what} over training", max(cell * most, 460)),
                  class_="title")]  # fmt: skip
    said = []
    for row, name in enumerate(names):
        y = 34 + row * high
        parts.append(text(0, y + 2, name, class_="head"))
        epochs = arrays[f"epoch_{row}"]
        for i, at in enumerate(spread(len(epochs))):
            taken = int(arrays[f"epoch_probability_{row}"][at].argmax())
            style = "name small" if taken == label else "wrong small"
            parts.append(text(i * cell, y + ROW + 3, f"epoch {epochs[at]}", class_="small"))
            parts.append(picture(i * cell, y + ROW + 8, side, levels(arrays[f"epoch_examples_{row}"][at])))
            parts.append(text(i * cell, y + 2 * ROW + side + 6, fit(classes[taken], cell), class_=style))
        said.append(f"{name}: {len(epochs)} epochs")
    caption = f"The adversarial example over training, {where(found)}, image {found.images[0]}"
    words = f"The adversarial example within {found.settings['threat']} of {what}. {'; '.join(said)}."
    return draw("epochs", caption, words, (max(cell * most, 460), 34 + len(names) * high), *parts)


def spread(count: int, most: int = COLUMNS) -> list[int]:
    """Which of so many are drawn: all, or so many evenly from the first to the last."""
    return list(range(count)) if count <= most else [round(i * (count - 1) / (most - 1)) for i in range(most)]
