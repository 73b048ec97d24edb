"""Draws what a smaller training budget on one region does: a diagram for each region, with its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leaderboard.canvas import Drawing, draw, fit
from leaderboard.drawing import tag, text
from leaderboard.words import percent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench import Picture

SAID = (
    "Adversarial training with a smaller budget on one region of the image (shaded) and the whole one elsewhere. "
    "Accuracy on clean images and under attack with the whole budget everywhere, and in brackets how many points that "
    "is above the training with the whole budget. Of several seeds the mean is drawn."
)
SIDE, CELL, TOP = 72, 150, 44
CORNERS = {"upper-left": (0, 0), "upper-right": (1, 0), "lower-left": (0, 1), "lower-right": (1, 1)}


def drawings(found: Picture, _arrays: Mapping[str, NDArray[Any]], _classes: Sequence[str]) -> list[Drawing]:
    """One drawing: the whole first, then each region beside it."""
    shares = means(found)
    whole = next(iter(shares))
    low = float(str(found.settings["low"]))
    parts = [text(0, 14, f"A smaller budget on one region: {100 * low:g} % of eps, {found.dataset}", class_="title")]
    said = []
    for place, (region, (clean, robust)) in enumerate(shares.items()):
        x = place * CELL
        parts.append(text(x, TOP - 8, fit(region, CELL), class_="head"))
        parts.append(tag("rect", x=x, y=TOP, width=SIDE, height=SIDE, class_="frame"))
        if region in CORNERS:
            right, down = CORNERS[region]
            half = SIDE / 2
            parts.append(
                tag("rect", x=x + half * right, y=TOP + half * down, width=half, height=half, class_="region")
            )  # fmt: skip
        gains = (
            [""] * 2 if region == whole else [_gain(a, b) for a, b in zip((clean, robust), shares[whole], strict=True)]
        )
        lines = [f"clean {percent(clean)} %{gains[0]}", f"robust {percent(robust)} %{gains[1]}"]
        parts += [text(x, TOP + SIDE + 18 + 16 * k, line, class_="name") for k, line in enumerate(lines)]
        said.append(f"{region}: {', '.join(lines)}")
    width = max(len(shares) * CELL, 460)
    caption = f"A smaller training budget on one region of the image, {found.dataset}"
    words = f"Under {found.settings['column']} at {found.settings['threat']}. {'; '.join(said)}."
    style = ".region{fill:var(--accent);fill-opacity:.6}"
    return [draw("", caption, words, (width, TOP + SIDE + 46), *parts, style=style)]


def means(found: Picture) -> dict[str, tuple[float, float]]:
    """Clean and robust accuracy of each region, over seeds; the whole is first."""
    at = {name: found.heads.index(name) for name in ("region", "clean", "robust")}
    alike: dict[str, list[tuple[float, float]]] = {}
    for row in found.rows:
        clean, robust = (float(str(row[at[k]])) for k in ("clean", "robust"))
        alike.setdefault(str(row[at["region"]]), []).append((clean, robust))
    return {
        region: (sum(c for c, _ in pairs) / len(pairs), sum(r for _, r in pairs) / len(pairs))
        for region, pairs in alike.items()
    }


def _gain(now: float, before: float) -> str:
    return f" ({100 * (now - before):+.1f})"
