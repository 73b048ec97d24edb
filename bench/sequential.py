"""Is it worse, or is it not?  A test of a drop that may be looked at after every image, and stopped at any.

Images come in test order.  Of each, D is 1 where it was lost, -1 where it was gained and 0 where nothing changed, and m
is the tolerated drop.  A gambler who bets a share b of what he has on D - m keeps a factor 1 + b (D - m) of it.  If the
mean of D, whatever the images before were, is no more than m, then that is on average no gain, whatever b he chose in
advance; so the mean over many b of what their gamblers have is a supermartingale that starts at 1, and the chance that
it ever reaches 1 / alpha is at most alpha (Ville, 1939).  It is the evidence for `worse`.  Those who bet against D - m
are the evidence for `no worse` in the same way.  (Waudby-Smith and Ramdas, 2024, "Estimating means of bounded random
variables by betting".)

What is assumed: the next image is as any other, as where the test images are a random sample in random order.  It would
not hold for images that come sorted by class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BETS = 64
BOLDEST = 10.0  # a bet is no larger, however little there is to lose
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The largest logarithm of what the gamblers had, up to each image."""

    worse: Floats  # (n,)
    no_worse: Floats  # (n,)

    @property
    def p_worse(self) -> float:
        """An upper bound, whenever one looks, of the chance of as much evidence without a drop beyond the margin."""
        return _p_value(self.worse)

    @property
    def p_no_worse(self) -> float:
        """Likewise, of the chance of as much evidence that it is no worse while it is."""
        return _p_value(self.no_worse)


def evidence(lost: ArrayLike, gained: ArrayLike, margin: float = 0.0) -> Evidence:
    """What images in their order say: for each whether it was lost, and whether it was gained (n,)."""
    losses, gains = (np.cumsum(np.asarray(side, np.int64)) for side in (lost, gained))
    seen = np.arange(1, len(losses) + 1)
    both = [wealth(losses, gains, seen, margin, against=against) for against in (False, True)]
    return Evidence(*(np.maximum.accumulate(one) for one in both))


def wealth(lost: Any, gained: Any, seen: Any, margin: float, *, against: bool = False) -> Floats:
    """The logarithm of what the gamblers have after so many images: they bet on a drop, or against it."""
    bets = _bets(margin, against=against)
    counts = np.stack(np.broadcast_arrays(lost, gained, np.asarray(seen) - lost - gained), -1).astype(np.float64)
    factors = np.log1p(np.stack([bets * (d - margin) for d in (1.0, -1.0, 0.0)]))
    logs = counts @ factors  # (..., BETS)
    top = logs.max(-1, keepdims=True)
    found: Floats = np.log(np.exp(logs - top).mean(-1)) + top[..., 0]
    return found


def _bets(margin: float, *, against: bool) -> Floats:
    """Shares between none and the largest that cannot be lost, dense at both ends; negative are against the drop."""
    risk = 1 - margin if against else 1 + margin
    most = min(BOLDEST, 1 / risk) if risk > 0 else BOLDEST
    shares: Floats = np.sin(np.pi * (np.arange(BETS) + 0.5) / (2 * BETS)) ** 2
    return -most * shares if against else most * shares


def first_at(running: Floats, level: float) -> int | None:
    """After how many images the evidence reached 1 / level; None if it did not."""
    place = int(np.searchsorted(running, -math.log(level) - 1e-12))
    return place + 1 if place < len(running) else None


def smallest_settled(gained: int, n: int, level: float, margin: float = 0.0) -> float | None:
    """The smallest drop (a share) that would have been settled after n images, with so many gained; None if none."""
    losses = np.arange(n - gained + 1)
    enough = wealth(losses, gained, n, margin) >= -math.log(level)
    beyond = np.flatnonzero(enough & (losses - gained > margin * n))
    return float(beyond[0] - gained) / n if len(beyond) else None


def comes_sorted(labels: Sequence[int]) -> bool:
    """Whether neighbours are of one class much more often than in random order."""
    if len(labels) < 2:
        return False
    _, counts = np.unique(labels, return_counts=True)
    apart = 1 - float(((counts / len(labels)) ** 2).sum())  # of two images drawn at random
    changes = int(np.count_nonzero(np.diff(labels)))
    mean = apart * (len(labels) - 1)
    return changes < mean / 2 and mean - changes > 6 * math.sqrt(mean * (1 - apart) + 1)


def _p_value(running: Floats) -> float:
    return min(1.0, math.exp(-float(running[-1]))) if len(running) else 1.0
