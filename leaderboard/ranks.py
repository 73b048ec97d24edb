"""How sure a place on the board is: which lines are told apart on the same images, and which are tied.

Two lines are told apart where McNemar's exact test, on the images that both were asked, has a p-value of at most
5 % / (lines - 1): with that correction (Bonferroni's) the interval from 1 + the lines that are significantly better to
the number of lines less those that are significantly worse holds a line's true place with 95 % confidence.  Of several
seeds, every one must win against every one of the other line.

A mean over corruptions has no one outcome of an image: there it is Student's paired test of the number of conditions
under which each image stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench import binomial_tail, student_quantile
from leaderboard.rows import Row
from leaderboard.seeds import Group

ALPHA = 0.05


def ranks(lines: Sequence[Row | Group], alpha: float = ALPHA) -> list[tuple[int, int] | None]:
    """The best and the worst place that each line may have; None where its summary is a bound, or not trusted."""
    ranked = [i for i, x in enumerate(lines) if x.summary is not None and not x.summary.bound and x.trusted]
    found: list[tuple[int, int] | None] = [None] * len(lines)
    members = [_rows(lines[i]) for i in ranked]
    if len(ranked) == 1:
        found[ranked[0]] = 1, 1
    if len(ranked) < 2:
        return found
    rows = [row for rows in members for row in rows]
    test = _beats if all(row.fell is not None for row in rows) else _beats_on_average
    beats = test(rows, alpha / (len(ranked) - 1))
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
    words, most = -(-max(sizes) // 64), (1 << max(sizes)) - 1  # others may have fallen beyond these images
    content = b"".join(((row.fell.bits if row.fell else 0) & most).to_bytes(8 * words, "little") for row in rows)
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


def _beats_on_average(rows: Sequence[Row], alpha: float) -> NDArray[np.bool_]:
    """The same by Student's paired test, on the images that all rows were asked."""
    n = min(row.summary.n for row in rows if row.summary)
    beats = np.zeros((len(rows), len(rows)), bool)
    if n < 2 or not all(row.spoilt for row in rows):
        return beats
    scores = np.array([_scores(row, n) for row in rows], np.float32)
    scores -= scores.mean(0)  # the same for all rows: differences stay, and their squares are sums of small numbers
    means = scores.mean(1, dtype=np.float64)
    squares = (scores.astype(np.float64) ** 2).sum(1)
    differ = np.maximum(squares[:, None] + squares[None, :] - 2.0 * (scores @ scores.T), 0.0)
    lead = means[:, None] - means[None, :]
    error = np.sqrt(np.maximum(differ - n * lead**2, 0.0) / (n - 1) / n)
    found: NDArray[np.bool_] = lead > np.maximum(student_quantile(alpha / 2, n - 1) * error, 1e-6)
    return found


def _scores(row: Row, n: int) -> NDArray[np.int32]:
    """Under how many conditions each of the first n test images stands."""
    size, mask = -(-n // 8), (1 << n) - 1
    content = b"".join((fell.bits & mask).to_bytes(size, "little") for fell in row.spoilt)
    bits = np.frombuffer(content, np.uint8).reshape(len(row.spoilt), size)
    fallen: NDArray[np.int32] = np.unpackbits(bits, axis=1, bitorder="little")[:, :n].sum(0, dtype=np.int32)
    return len(row.spoilt) - fallen


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
