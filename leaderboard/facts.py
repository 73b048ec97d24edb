"""What a row's documents say of how it came about: its division, and how far its numbers can be trusted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from leaderboard.words import name_of

if TYPE_CHECKING:
    from leaderboard.rows import Row

# Defenses whose weights were trained elsewhere: on which images nobody recorded.
ELSEWHERE = {"checkpoint", "hf", "robustbench", "url"}
DIVISIONS = {
    "closed": "trained here, on the data set's own images",
    "extra data": "trained here, on further images too",
    "random": "a random model, attacked over its randomness (EOT)",
    "unknown training": "trained elsewhere: on which images is not recorded",
}
TIERS = {
    "measured": "attacked and judged by this program",
    "verified": "and recounted from its adversarial images",
    "reported": "as published elsewhere, not measured",
}

_EOT = re.compile(r"[(,\s]eot=([0-9]{1,9})")
_EXTRA = re.compile(r"extra_sha256='[0-9a-f]{64}'")


def division(row: Row) -> str:
    """Which rows it competes with, as far as its records tell."""
    if any(int(times) > 1 for record in row.records for times in _EOT.findall(record.attack)):
        return "random"
    training = row.maker.training
    if training is None or name_of(training.defense) in ELSEWHERE:
        return "unknown training"
    return "extra data" if _EXTRA.search(training.defense) else "closed"
