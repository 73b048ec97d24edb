"""What a row's documents say of how far its numbers can be trusted."""

from __future__ import annotations

TIERS = {
    "measured": "attacked and judged by this program",
    "verified": "and recounted from its adversarial images",
    "reported": "as published elsewhere, not measured",
}
