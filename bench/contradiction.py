"""Doubts that show when the attacks on one model are set side by side: a weak one felled what a strong one left.

They cost nothing: all of it is in the records.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_

STEPS = 10  # gradients an image, of an attack worth its name
RARE = 0.002  # the share of the images that is passed over, as in AutoAttack's own check
SINGLE, SILENT, MISSED = 0.005, 0.005, 0.005  # shares of the images
TARGETS = 0.02  # the same, between APGD on one class and on several
IMBALANCED = 0.05  # the same; published trainings on cross-entropy alone have 3.7 to 3.8 points
LONG = 50  # steps of a climb of the cross-entropy that others may be measured by
NAMED = 20  # images that a sentence names
ON_MARGINS = {"apgd-t", "apgd-dlr", "cw", "fab", "fab-t", "md", "mdmt", "mm3", "mm9", "mm-plus", "mma"}
AUTOATTACK = {"apgd-ce", "apgd-t", "fab-t", "square"}
MD = {"md", "mdmt"}


@dataclass(frozen=True)
class Asked:
    """What one attack did to one model: the images that it was asked about, and those that fell."""

    attack: str  # recipe key
    access: str | None
    gradients: float  # backwards for each image that it left standing
    asked: AbstractSet[int]
    fell: AbstractSet[int]

    @cached_property
    def name(self) -> str:
        """Without version and settings."""
        return self.attack.partition("@")[0].partition("(")[0]

    def setting(self, name: str) -> str:
        """A setting as it is written; empty where it has none of that name."""
        found = re.search(rf"[(, ]{name}=('[^']*'|[^,)]*)", self.attack)
        return found[1].strip("'") if found else ""


@dataclass(frozen=True)
class Contradiction:
    """A doubt, the attacks that it is about, and the images where it shows."""

    code: str
    text: str
    attacks: tuple[str, ...]
    images: tuple[int, ...]


def contradictions(cells: Sequence[Asked]) -> tuple[Contradiction, ...]:
    """All of them; the attacks are those on one model under one threat and condition."""
    every = _union(c.asked for c in cells)
    checks: tuple[Callable[[Sequence[Asked], AbstractSet[int]], Contradiction | None], ...] = (
        _masked, _single, _imbalanced, _silent, _missed, _targets,
    )  # fmt: skip
    return tuple(found for check in checks if (found := check(cells, every)) is not None)


def _masked(cells: Sequence[Asked], every: AbstractSet[int]) -> Contradiction | None:
    """Images that fell to attacks without gradients, and to none with gradients that was asked about them.

    The gradients of such a model may be masked: who has them can do all that one can do without (arXiv:1802.00420).
    What takes less than ten gradients an image, as FGSM does, proves nothing.
    """
    white = [c for c in cells if c.access == "gradients"]
    withstood = _union(c.asked for c in white if c.gradients >= STEPS) - _union(c.fell for c in white)
    fell = {c.name: c.fell & withstood for c in cells if c.access in ("scores", "labels") and c.fell & withstood}
    images = sorted(_union(fell.values()))
    if len(images) <= RARE * len(every):
        return None
    text = "{} fell to an attack without gradients and to none with them ({}): masked gradients?"
    return Contradiction("masked", text.format(*_counted(images)), tuple(sorted(fell)), tuple(images))


def _single(cells: Sequence[Asked], every: AbstractSet[int]) -> Contradiction | None:
    """One step of FGSM fells what a long climb of the same loss leaves."""
    steps = [c for c in cells if c.name == "fgsm"]
    climbs = [c for c in cells if _climb(c) and c.gradients >= LONG]
    left = _left(climbs) - _union(c.fell for c in cells if c.access == "gradients" and c not in steps)
    return _found(
        "single-step", steps, left, SINGLE, every,
        "{} fell to FGSM's single step and to no climb of {} steps or more ({}): gradients that point nowhere?",
        LONG,
    )  # fmt: skip


def _imbalanced(cells: Sequence[Asked], every: AbstractSet[int]) -> Contradiction | None:
    """Attacks on the margin fell much more than a long climb of the cross-entropy does."""
    climbs = [c for c in cells if _climb(c) and c.gradients >= LONG and c.setting("eot") in {"", "1"}]
    return _found(
        "imbalanced", [c for c in cells if c.name in ON_MARGINS], _left(climbs), IMBALANCED, every,
        "{} fell to attacks on the margin and not to PGD on the cross-entropy ({}): imbalanced gradients; of attacks "
        "on the cross-entropy this model looks more robust than it is",
    )  # fmt: skip


def _silent(cells: Sequence[Asked], every: AbstractSet[int]) -> Contradiction | None:
    """An attack that keeps its last image gives back what it had felled on the way."""
    lasts = {c.attack: c for c in cells if c.setting("keep") == "last"}
    pairs = [
        (lasts[twin], c) for c in cells
        if c.setting("keep") == "any" and (twin := c.attack.replace("keep='any'", "keep='last'")) in lasts
    ]  # fmt: skip
    worst: Contradiction | None = None
    for last, any_ in pairs:
        found = _found(
            "silent", [any_], (last.asked & any_.asked) - last.fell, SILENT, every,
            "{} fell on the way and stood at the last step of the same attack ({}): report keep='any'",
        )  # fmt: skip
        if found and (worst is None or len(found.images) > len(worst.images)):
            worst = found
    return worst


def _missed(cells: Sequence[Asked], every: AbstractSet[int]) -> Contradiction | None:
    """Margin decomposition fells what all four members of AutoAttack leave."""
    members = [c for c in cells if c.name in AUTOATTACK]
    if {c.name for c in members} != AUTOATTACK:
        return None
    left = reduce(lambda a, b: a & b, (_union(c.asked for c in members if c.name == m) for m in sorted(AUTOATTACK)))
    return _found(
        "missed", [c for c in cells if c.name in MD], left - _union(c.fell for c in members), MISSED, every,
        "{} fell to MD or MDMT and to none of AutoAttack ({}): more targets, steps and restarts are needed here",
    )  # fmt: skip


def _targets(cells: Sequence[Asked], every: AbstractSet[int]) -> Contradiction | None:
    """APGD on several targets felled what APGD on the difference of logits leaves."""
    one = [c for c in cells if c.name == "apgd-dlr" and c.setting("eot") in {"", "1"}]
    return _found(
        "targets", [c for c in cells if c.name == "apgd-t"], _left(one), TARGETS, every,
        "{} fell to APGD on several targets and not to APGD on the nearest class ({}): attacks on one class alone find "
        "less here than there is",
    )  # fmt: skip


def _climb(cell: Asked) -> bool:
    """Whether it is PGD on the cross-entropy."""
    return cell.name == "pgd"


def _left(cells: Sequence[Asked]) -> AbstractSet[int]:
    """What was asked by some of these, and fell to none of them."""
    return _union(c.asked for c in cells) - _union(c.fell for c in cells)


def _union(sets: Iterable[AbstractSet[int]]) -> AbstractSet[int]:
    """All images; whatever kind of sets they are."""
    every = list(sets)
    return reduce(or_, every) if every else frozenset()


def _found(
    code: str,
    cells: Sequence[Asked],
    left: AbstractSet[int],
    share: float,
    every: AbstractSet[int],
    text: str,
    *more: object,
) -> Contradiction | None:
    """The doubt about what these attacks felled of what others left, where it is more than this share of the images.

    The images are those of the first test images that these attacks went through.
    """
    fell = {c.name: c.fell & left for c in cells if c.fell & left}
    images = sorted(_union(fell.values()))
    if not images:
        return None
    end = max(max(c.asked) for c in cells if c.asked)
    if len(images) <= share * sum(image <= end for image in every):
        return None
    count, named = _counted(images)
    return Contradiction(code, text.format(count, *more, named), tuple(sorted(fell)), tuple(images))


def _counted(images: Sequence[int]) -> tuple[str, str]:
    """How many images, and which; of many the first."""
    rest = f" and {len(images) - NAMED:,} more" if len(images) > NAMED else ""
    return f"{len(images):,} image{'s' * (len(images) > 1)}", ", ".join(map(str, images[:NAMED])) + rest
