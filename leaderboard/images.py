"""Sets of test images as bitmaps: a hundred thousand records of a thousand images each fit into memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import repeat
from typing import Any

from bench import PLACES


class Images(AbstractSet[int]):
    """A set of places in the test part; behaves as a frozenset does, and is one integer inside."""

    __slots__ = ("bits",)

    def __init__(self, places: Iterable[int] = ()) -> None:
        """Of places from 0 up to PLACES."""
        if isinstance(places, Images):
            self.bits: int = places.bits
            return
        found = places if isinstance(places, list) else list(places)
        low, high = (min(found), max(found)) if found else (0, -1)
        if low < 0 or high >= PLACES:
            raise ValueError(f"places of images lie from 0 to {PLACES:,}")
        content = bytearray(high + 1)
        deque(map(content.__setitem__, found, repeat(49)), maxlen=0)  # 49 is the digit 1
        # int() reads binary digits in a time that grows with their number, the last place first.
        self.bits = int(content.replace(b"\0", b"0")[::-1] or b"0", 2)

    @classmethod
    def of(cls, bits: int) -> Images:
        """The images whose bits are set."""
        found = cls.__new__(cls)
        found.bits = bits
        return found

    @classmethod
    def below(cls, n: int) -> Images:
        """The first n test images."""
        return cls.of((1 << n) - 1)

    def __contains__(self, place: object) -> bool:
        return isinstance(place, int) and place >= 0 and bool(self.bits >> place & 1)

    def __iter__(self) -> Iterator[int]:
        """In ascending order."""
        return (place for place, digit in enumerate(reversed(f"{self.bits:b}")) if digit == "1")

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __bool__(self) -> bool:
        return bool(self.bits)

    def __hash__(self) -> int:
        return hash(self.bits)

    def __eq__(self, other: object) -> bool:
        return self.bits == other.bits if isinstance(other, Images) else super().__eq__(other)

    def __or__(self, other: AbstractSet[Any]) -> Images:
        return Images.of(self.bits | Images(other).bits)

    def __and__(self, other: Iterable[Any]) -> Images:
        return Images.of(self.bits & Images(other).bits)

    def __sub__(self, other: Iterable[Any]) -> Images:
        return Images.of(self.bits & ~Images(other).bits)

    def __le__(self, other: AbstractSet[Any]) -> bool:
        return not self.bits & ~Images(other).bits

    def __repr__(self) -> str:
        return f"Images({list(self)})"

    @classmethod
    def union(cls, parts: Iterable[Images]) -> Images:
        """All images of the parts together."""
        bits = 0
        for part in parts:
            bits |= part.bits
        return cls.of(bits)

    @classmethod
    def common(cls, parts: Iterable[Images]) -> Images:
        """The images that every part has; none of no parts."""
        bits = -1
        for part in parts:
            bits &= part.bits
        return cls.of(bits if bits != -1 else 0)

    @property
    def end(self) -> int:
        """One more than the last place; 0 where there is none."""
        return self.bits.bit_length()

    @property
    def first(self) -> int:
        """n, where the first n test images are all among these and the next is not."""
        return (~self.bits & (self.bits + 1)).bit_length() - 1

    def among(self, n: int) -> int:
        """How many of the first n test images are among these."""
        return (self.bits & ((1 << n) - 1)).bit_count()
