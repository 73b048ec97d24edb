"""How sure a place on the board is: which lines are told apart on the same images, and which are tied.

Two lines are told apart where McNemar's exact test, on the images that both were asked, has a p-value of at most
5 % / (lines - 1): with that correction (Bonferroni's) the interval from 1 + the lines that are significantly better to
the number of lines less those that are significantly worse holds a line's true place with 95 % confidence.  Of several
seeds, every one must win against every one of the other line.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench import binomial_tail
from leaderboard.rows import Row
from leaderboard.seeds import Group

ALPHA = 0.05


def ranks(lines: Sequence[Row | Group], alpha: float = ALPHA) -> list[tuple[int, int] | None]:
    """The best and the worst place that each line may have; None where its summary is no more than a bound."""
    ranked = [i for i, line in enumerate(lines) if line.summary is not None and not line.summary.bound]
    found: list[tuple[int, int] | None] = [None] * len(lines)
    members = [_rows(lines[i]) for i in ranked]
    if not all(row.fell is not None for rows in members for row in rows):
        return found  # a mean over conditions: an image has no one outcome
    if len(ranked) == 1:
        found[ranked[0]] = 1, 1
    if len(ranked) < 2:
        return found
    beats = _beats([row for rows in members for row in rows], alpha / (len(ranked) - 1))
    starts = np.cumsum([0, *map(len, members)])[:-1]
    for axis in (0, 1):
        beats = np.logical_and.reduceat(beats, starts, axis=axis)
    for i, better, worse in zip(ranked, beats.sum(0).tolist(), beats.sum(1).tolist(), strict=True):
        found[i] = 1 + better, len(ranked) - worse
    return found


def _rows(line: Row | Group) -> tuple[Row, ...]:
    return line.rows if isinstance(line, Group) else (line,)


def _beats(rows: Sequence[Row], alpha: float) -> NDArray[np.bool_]:
    """(R, R): whether the first row is significantly better than the second."""
    sizes = [row.summary.n if row.summary else 0 for row in rows]
    words = -(-max(sizes) // 64)
    content = b"".join((row.fell.bits if row.fell else 0).to_bytes(8 * words, "little") for row in rows)
    fell = np.frombuffer(content, np.uint64).reshape(len(rows), words)
    order = sorted(range(len(rows)), key=sizes.__getitem__)
    beats = np.zeros((len(rows), len(rows)), bool)
    places, n, among = np.array(order), -1, fell
    for at, i in enumerate(order[:-1]):
        if sizes[i] != n:  # these and all that follow were asked at least so many
            n = sizes[i]
            mask = np.frombuffer(((1 << n) - 1).to_bytes(8 * words, "little"), np.uint64)
            among = fell & mask
        others = places[at + 1 :]
        lost = among[others]
        differ = lost ^ among[i]
        changed = np.bitwise_count(differ).sum(1, dtype=np.int64)
        lead = 2 * np.bitwise_count(differ & lost).sum(1, dtype=np.int64) - changed  # images that only i kept, less
        needed = _needed_for(changed, alpha)
        beats[i, others[lead >= needed]] = True
        beats[others[-lead >= needed], i] = True
    return beats


def _needed_for(changed: NDArray[np.int64], alpha: float) -> NDArray[np.int64]:
    """The lead that is significant, for each number of images on which two rows differ."""
    values, places = np.unique(changed, return_inverse=True)
    return np.array([needed(int(value), alpha) for value in values], np.int64)[places]


@lru_cache(maxsize=65536)
def needed(changed: int, alpha: float) -> int:
    """The smallest lead, of `changed` images on which two models differ, whose two-sided p-value is at most alpha.

    changed + 1, which none reaches, where even winning all of them says too little.
    """
    low, high = changed // 2, changed + 1  # wins: the first is too few, the second more than there are
    while high - low > 1:
        wins = (low + high) // 2
        low, high = (low, wins) if 2 * binomial_tail(wins, changed, 0.5) <= alpha else (wins, high)
    return 2 * high - changed
