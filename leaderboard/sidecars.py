"""What lies beside records: of each image the class that was read and the passes that were spent."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from bench import PLACES, RampartError
from leaderboard.images import Images

if TYPE_CHECKING:
    from bench import Ledger, Record
    from leaderboard.arithmetic import Exam, Outcome


class MissingError(Exception):
    """A sidecar is not there, or damaged, or lacks a figure."""


class Figures(NamedTuple):
    """What a sidecar says of each image asked, and which images those are."""

    places: NDArray[np.int64]
    predicted: NDArray[np.int64]
    passes: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sidecars:
    """The sidecars of a ledger, each read once as long as one model is looked at."""

    ledger: Ledger
    known: dict[str, Figures] = field(default_factory=dict)

    def predicted(self, record: Record, n: int) -> NDArray[np.int64]:
        """The class that was read of each of the first n images (n,); -1 where it was not asked."""
        found = self._read(record)
        return _dense(found.places, found.predicted, n, -1)

    def passes(self, record: Record, n: int) -> NDArray[np.int64]:
        """Forwards and backwards that were spent on each of the first n images (n,); 0 where it was not asked."""
        found = self._read(record)
        return _dense(found.places, found.passes, n, 0)

    def _read(self, record: Record) -> Figures:
        if record.images not in self.known:
            try:
                found = self.ledger.images(record)
                predicted, forwards, backwards = (
                    np.asarray(found[name], np.int64) for name in ("predicted", "forwards", "backwards")
                )
                if not predicted.shape == forwards.shape == backwards.shape == (len(record.asked),):
                    raise ValueError("it has not a figure for each image asked")
            except (RampartError, SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
                raise MissingError(str(error)) from error
            self.known[record.images] = Figures(_places(record.asked), predicted, forwards + backwards)
        return self.known[record.images]


def _places(asked: Collection[int]) -> NDArray[np.int64]:
    """The images asked, in the order of their figures; Images are ascending."""
    return np.flatnonzero(mask(asked, asked.end)) if isinstance(asked, Images) else np.array(asked, np.int64)


def _dense(places: NDArray[np.int64], figures: NDArray[np.int64], n: int, missing: int) -> NDArray[np.int64]:
    """Figures of images as an array over the first n."""
    inside = places < n
    found = np.full(n, missing, np.int64)
    found[places[inside]] = figures[inside]
    return found


def mask(images: Images, n: int) -> NDArray[np.bool_]:
    """Which of the first n images are among these (n,)."""
    content = (images & Images.below(n)).bits.to_bytes(-(-n // 8), "little")
    return np.unpackbits(np.frombuffer(content, np.uint8), count=n, bitorder="little").astype(bool)


def cascade(exam: Exam) -> list[Outcome]:
    """The cells of a column in the order in which a cascade asks: each about no more images than the one before it."""
    return [cell for _, cell in sorted(exam.members.items(), key=lambda m: (-len(m[1].asked), m[0]))]


def spent_until_fallen(
    exam: Exam, clean: Outcome | None, n: int, sidecars: Sidecars
) -> list[tuple[float, float]] | None:
    """How the share that stands falls, as the passes grow that a column spends on an image: (passes, share).

    The attacks come in the order in which a cascade asks, and an image falls when the attack that felled it has ended
    on it.  What clean lost has fallen after one pass.  None where one run answered several cells, for then nothing
    says which of them its passes belong to.
    """
    cells = cascade(exam)
    if not 0 < n <= PLACES or not cells or any(r.run is not None for cell in cells for r in cell.records):
        return None
    spent = np.ones(n, np.int64)
    open_ = ~mask(clean.fell, n) if clean is not None else np.ones(n, bool)
    for cell in cells:
        each = np.zeros(n, np.int64)
        for record in cell.records:
            each = np.maximum(each, sidecars.passes(record, n))
        spent[open_] += each[open_]
        open_ &= ~mask(cell.fell, n)
    totals, images = np.unique(spent[mask(exam.fell, n)], return_counts=True)
    standing = (n - images.cumsum()) / n
    # Steps closer than a two-hundredth of a doubling are one, at the last of them.
    last = np.append(np.diff(np.round(200 * np.log2(totals))) > 0, True)[: len(totals)]
    totals, standing = totals[last], standing[last]
    found = [(float(x), float(y)) for x, y in zip(totals, standing, strict=True)]
    return found if found and found[0][0] == 1 else [(1.0, 1.0), *found]
