"""How often does the gate raise a false alarm, and what does it see?  Simulates gates: writes tables of docs/ci.md.

    make power

Every figure is of 10,000 simulated gates of up to 1,000 images each; the sequential one looks after every image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.paired import drop_on_images
from bench.sequential import wealth
from tests.conformance.pages import fill

PAGE = Path(__file__).parents[2] / "docs" / "ci.md"
GATES, IMAGES, ALPHA = 10_000, 1000, 0.05
MARGINS = (0.0, 0.01, 0.02)
CHANGES = (0.03, 0.1, 0.2)  # shares of images that are lost or gained
EXTRA = (0.01, 0.02, 0.03, 0.05)  # drops beyond the margin
Counts = NDArray[np.int64]


def main() -> None:
    """Simulate and write."""
    fill(PAGE, "alarms", alarms())
    fill(PAGE, "power", power())


def simulate(margin: float, change: float, drop: float, seed: int = 0) -> tuple[Counts, Counts]:
    """How many images were lost, and gained, up to each: (gates, images)."""
    u = np.random.default_rng(seed).random((GATES, IMAGES))
    lost, gained = (change + drop) / 2, (change - drop) / 2
    return np.cumsum(u < lost, 1), np.cumsum((u >= lost) & (u < lost + gained), 1)


def fixed(lost: Counts, gained: Counts, n: int, margin: float, level: float = ALPHA) -> NDArray[np.bool_]:
    """Which gates say `regressed`, asked once, after n images: (gates,)."""

    def says(b: int, g: int) -> bool:
        return b - g > margin * n and drop_on_images(b, g, n, margin) <= level

    return each(lost[:, n - 1], gained[:, n - 1], lambda b, g: np.array([says(*p) for p in zip(b, g, strict=True)]))


def crossings(lost: Counts, gained: Counts, margin: float, *, against: bool, level: float = ALPHA) -> Counts:
    """The image after which each gate was settled on a side; IMAGES + 1 where none did: (gates,)."""
    found = np.full(len(lost), lost.shape[1] + 1)
    for n in range(lost.shape[1], 0, -1):
        over = each(lost[:, n - 1], gained[:, n - 1], lambda b, g, n=n: wealth(b, g, n, margin, against=against))
        found[over >= -math.log(level)] = n
    return found


def each(lost: Counts, gained: Counts, function: Callable[..., NDArray[Any]]) -> NDArray[Any]:
    """A function of the counts of every gate, which is asked about equal counts once."""
    pairs, places = np.unique(lost * (IMAGES + 1) + gained, return_inverse=True)
    return function(*(side.tolist() for side in np.divmod(pairs, IMAGES + 1)))[places]


def alarms() -> str:
    """False alarms: the true drop is the margin."""
    rows = []
    for margin in MARGINS:
        for change in CHANGES:
            lost, gained = simulate(margin, change, margin)
            looks = [fixed(lost, gained, n, margin) for n in range(100, IMAGES + 1, 100)]
            worse = crossings(lost, gained, margin, against=False) <= IMAGES
            better = crossings(lost, gained, margin, against=True) <= IMAGES
            rows.append((
                points(margin), percent(change), percent(looks[-1]), percent(np.any(looks, 0)), percent(worse),
                percent(better),
            ))  # fmt: skip
    several = [simulate(0.0, change, 0.0, seed) for seed in (1, 2) for change in CHANGES]
    once = np.any([fixed(*counts, IMAGES, 0.0, ALPHA / len(several)) for counts in several], 0)
    every = [crossings(*counts, 0.0, against=False, level=ALPHA / len(several)) <= IMAGES for counts in several]
    rows.append(("0, 6 comparisons", "3 to 20 %", percent(once), "", percent(np.any(every, 0)), ""))
    heads = (
        "true drop = `--max-drop`", "images that change", "once, after 1,000", "(wrong) after every 100",
        "`--sequential`, after every image", "its `no worse`",
    )  # fmt: skip
    return grid(heads, rows)


def power() -> str:
    """What is seen of drops beyond the margin, and how soon."""
    rows = []
    for margin in MARGINS:
        for change in CHANGES:
            for extra in (-margin if margin else None, *EXTRA):
                if extra is None or margin + extra > change:
                    continue
                lost, gained = simulate(margin, change, margin + extra)
                once = fixed(lost, gained, IMAGES, margin)
                worse, better = (crossings(lost, gained, margin, against=side) for side in (False, True))
                regressed = (worse <= IMAGES) & (worse <= better)
                settled = np.minimum(np.minimum(worse, better), IMAGES)
                rows.append((
                    points(margin), percent(change), points(margin + extra), percent(once), percent(regressed),
                    percent((better <= IMAGES) & ~regressed), f"{settled.mean():,.0f}",
                ))  # fmt: skip
    heads = (
        "`--max-drop`", "images that change", "true drop", "once, after 1,000: regressed", "`--sequential`: regressed",
        "no worse", "images asked, mean",
    )  # fmt: skip
    return grid(heads, rows)


def percent(share: Any) -> str:
    """A share, or how often something is true."""
    return (
        f"{100 * float(np.mean(share)):.3g} %" if isinstance(share, float) else f"{100 * float(np.mean(share)):.1f} %"
    )


def points(share: float) -> str:
    """A difference of accuracies."""
    return f"{100 * share:g}"


def grid(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ("---",) * len(heads), *rows))


if __name__ == "__main__":
    main()
