"""Two models on the same images: where they disagree, and whether that can be chance."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import binomial_tail, holm

if TYPE_CHECKING:
    from leaderboard.evidence import Fallen


@dataclass(frozen=True)
class Pair:
    """Of n images that both were asked: those that stand in the first alone, and in the second alone."""

    n: int
    first: int
    second: int

    @classmethod
    def of(cls, one: Fallen, other: Fallen) -> Pair:
        """On the first images, as many as both columns went through."""
        n = min(one.n, other.n)
        a, b = one.first(n), other.first(n)
        return cls(n, (b & ~a).bit_count(), (a & ~b).bit_count())

    @property
    def difference(self) -> float:
        """The first one's lead, as a share of the images."""
        return (self.first - self.second) / self.n

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: how often chance alone parts the images on which they disagree so unevenly.

        Given how many those are, each is as likely to stand in the one as in the other if neither is better.
        """
        return min(1.0, 2 * binomial_tail(max(self.first, self.second), self.first + self.second, 0.5))


@dataclass(frozen=True)
class Matrix:
    """Every pair of some models: what the row leads the column by, and the p-value; None where nothing is shared."""

    pairs: tuple[tuple[Pair | None, ...], ...]
    adjusted: tuple[tuple[float, ...], ...]  # p-values for as many tests as there are pairs (Holm)


def matrix(models: Sequence[Fallen | None]) -> Matrix:
    """All against all; one that is not decided is compared with none."""
    known = [m if m is not None and m.n and not m.bound else None for m in models]
    size = range(len(known))
    pairs = tuple(
        tuple(
            Pair.of(a, b) if i != j and (a := known[i]) is not None and (b := known[j]) is not None else None
            for j in size
        )
        for i in size
    )
    places = [(i, j) for i in size for j in size if i < j and pairs[i][j] is not None]
    tested = [pair.p_value for i, j in places if (pair := pairs[i][j]) is not None]
    found = dict(zip(places, holm(tested), strict=True))
    adjusted = tuple(tuple(found.get((min(i, j), max(i, j)), 1.0) for j in size) for i in size)
    return Matrix(pairs, adjusted)


def packed(fallen: Fallen) -> str:
    """The fallen images in base64: a bit an image, the first in the lowest bit of the first byte."""
    return base64.b64encode(fallen.bits.to_bytes(-(-fallen.n // 8), "little")).decode()
