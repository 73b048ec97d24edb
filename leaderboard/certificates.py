"""Certificates: the images of some weights that no attack within a threat can fell, and what speaks against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leaderboard.doubts import Doubt
from leaderboard.images import Images
from leaderboard.words import name_of, natural

if TYPE_CHECKING:
    from bench import CertificateRecord
    from leaderboard.arithmetic import Outcome

Key = tuple[str, str, str, str, str]  # test part, net, condition, threat, weights


@dataclass(frozen=True)
class Certificate:
    """What all certificates of one kind say together."""

    asked: Images = field(default_factory=Images)
    held: Images = field(default_factory=Images)  # the images that are proven to stand
    without: tuple[str, ...] = ()  # why there is no bound

    def contradicted(self, cells: Mapping[str, Outcome]) -> tuple[Doubt, ...]:
        """A doubt where an attack felled what is proven to stand: then the proof is wrong, or the record."""
        fell = {attack: cell.fell & self.held for attack, cell in cells.items()}
        images = Images.union(fell.values())
        if not images:
            return ()
        named = ", ".join(map(str, list(images)[:20]))
        text = f"{len(images):,} certified images fell all the same ({named}): the certificate or the record is wrong"
        return (Doubt(text, tuple(sorted({name_of(a) for a, x in fell.items() if x}, key=natural))),)


def certificates(records: Iterable[CertificateRecord], first: float) -> dict[Key, Certificate]:
    """By what they are about; only so many of the first test images count."""
    found: dict[Key, Certificate] = {}
    for r in records:
        key = (r.test, r.net, r.condition, r.threat, r.weights)
        before = found.get(key, Certificate())
        asked, held = (Images(i for i in some if i < first) for some in (r.asked, r.certified))
        without = tuple(sorted({*before.without, *([r.without] if r.without else [])}))
        found[key] = Certificate(before.asked | asked, before.held | held, without)
    return found
