"""Which doubts count: of several looks at a model the newest, and of its doubts those that say that a number lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.doubts import REASONS, code_of
from bench.exam import CLEAN

if TYPE_CHECKING:
    from bench.records import CheckRecord

AFTERWARDS = {"drifts"}  # doubts that only show when a model is attacked: its checks do not know of them
Subject = tuple[str, str, str, str | None]  # net, weights, test part, and the threat of checks that attack


def newest(checks: Iterable[CheckRecord]) -> Mapping[Subject, CheckRecord]:
    """What was found of each net, weights, test part and threat by the newest version of the checks.

    Where several machines looked, what one of them doubts is doubted.
    """
    found: dict[Subject, CheckRecord] = {}
    for check in sorted(checks, key=lambda c: (c.version, c.made, c.key)):
        name = (check.net, check.weights, check.test, check.threat)
        before = found.get(name)
        found[name] = _together(before, check) if before and before.version == check.version else check
    return found


def _together(before: CheckRecord, check: CheckRecord) -> CheckRecord:
    """The second with the doubts of the first that it does not have."""
    known = {d.code for d in check.doubts}
    more = [d for d in before.doubts if d.code not in known]
    return check.model_copy(update={"doubts": [*check.doubts, *more]}) if more else check


def is_stale(text: str, checks: Sequence[CheckRecord]) -> bool:
    """Whether a doubt in a record is one that the checks look for, and that the newest of them do not raise."""
    if not any(check.threat is None for check in checks) or code_of(text) in {"", *AFTERWARDS}:
        return False
    return text not in {d.text for check in checks for d in check.doubts}


def lies(doubt: str, column: str = "") -> bool:
    """Whether a doubt, by its sentence, says that a column's number lies.

    Where an attack can settle it, the attack that it calls for does not lie, and clean accuracy was not attacked.
    """
    reason = REASONS.get(code_of(doubt))
    if reason is None:
        return False
    return reason.fatal or (reason.probe != "" and not {reason.probe, CLEAN} & set(column.split(" = ")))
