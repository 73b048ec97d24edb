"""What lies beside records: of each image the class that was read and the passes that were spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench import RampartError

if TYPE_CHECKING:
    from bench import Ledger, Record
    from leaderboard.arithmetic import Exam, Outcome


class MissingError(Exception):
    """A sidecar is not there, or damaged, or lacks a figure."""


@dataclass(frozen=True, eq=False)
class Sidecars:
    """The sidecars of a ledger, each read once as long as one model is looked at."""

    ledger: Ledger
    known: dict[str, Mapping[str, Mapping[int, int]]] = field(default_factory=dict)

    def forget(self) -> None:
        """Free what was read."""
        self.known.clear()

    def predicted(self, record: Record) -> Mapping[int, int]:
        """The class that was read of each image asked."""
        return self._read(record)["predicted"]

    def passes(self, record: Record) -> Mapping[int, int]:
        """Forwards and backwards that were spent on each image asked."""
        return self._read(record)["passes"]

    def _read(self, record: Record) -> Mapping[str, Mapping[int, int]]:
        if record.images not in self.known:
            try:
                found = self.ledger.images(record)
                figures = {
                    "predicted": found["predicted"].tolist(),
                    "passes": (found["forwards"] + found["backwards"]).tolist(),  # type: ignore[operator]
                }
                self.known[record.images] = {
                    name: dict(zip(record.asked, map(int, values), strict=True)) for name, values in figures.items()
                }
            except (RampartError, OSError, KeyError, ValueError, TypeError) as error:
                raise MissingError(str(error)) from error
        return self.known[record.images]


def spent_until_fallen(
    exam: Exam, clean: Outcome | None, n: int, sidecars: Sidecars
) -> list[tuple[float, float]] | None:
    """How the share that stands falls, as the passes grow that a column spends on an image: (passes, share).

    The attacks come in the order in which a cascade asks, and an image falls when the attack that felled it has ended
    on it.  What clean lost has fallen after one pass.  None where one run answered several cells, for then nothing
    says which of them its passes belong to.
    """
    cells = [cell for _, cell in sorted(exam.members.items(), key=lambda m: (-len(m[1].asked), m[0]))]
    if not cells or any(r.run is not None for cell in cells for r in cell.records):
        return None
    lost = set(clean.fell) if clean is not None else set[int]()
    passes = [{i: p for r in cell.records for i, p in sidecars.passes(r).items()} for cell in cells]
    fell = [set(cell.fell) for cell in cells]
    fallen: dict[int, int] = {}  # passes to images
    for image in (i for i in exam.fell if i < n):
        total = 1
        if image not in lost:
            for mine, spent in zip(fell, passes, strict=True):
                total += spent.get(image, 0)
                if image in mine:
                    break
        fallen[total] = fallen.get(total, 0) + 1
    standing = n - fallen.pop(1, 0)
    found = [(1.0, standing / n)]
    for total, images in sorted(fallen.items()):
        standing -= images
        found.append((float(total), standing / n))
    return found
