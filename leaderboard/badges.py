"""A badge for each row: a small picture with what a model withstands, for a README elsewhere."""

from __future__ import annotations

import html
import unicodedata

from leaderboard.rows import Row, Section
from leaderboard.words import percent, printable

LONG = 48  # characters of the left half
_NARROW, _WIDE = "fijlrtI.,:;|!'()[] /", "mwMW@%"


def badge(section: Section, row: Row) -> str:
    """An SVG of two halves: what was asked, and the number of the column that sums up, or of the last column.

    Of a row that is not trusted it holds no number.
    """
    left, right, sure = said(section, row)
    return draw(left, right, "#1f5c8f" if sure else "#6b7075")


def said(section: Section, row: Row) -> tuple[str, str, bool]:
    """The two halves in words, and whether the number is decided."""
    dataset, threat, condition = (printable(part) for part in section.heading)
    where = " ".join([dataset, threat if section.threat else "", condition if condition != "clean" else ""])
    name = section.summary or (section.heads[-1].name if section.heads else "")
    number = row.summary if section.summary else row.numbers.get(name)
    left = _cut(f"{' '.join(where.split())} {printable(name)}")
    if not row.trusted:
        return left, "not trusted", False
    if number is None:
        return left, "not asked", False
    return left, f"{'≤ ' if number.bound else ''}{percent(number.accuracy)} % of {number.n:,}", not number.bound


def draw(left: str, right: str, colour: str) -> str:
    """The picture; text is fitted to its half, whatever the font."""
    a, b = _width(left), _width(right)
    total, label = a + b + 24, html.escape(f"{left}: {right}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" viewBox="0 0 {total} 20" role="img" '
        f'aria-label="{label}"><title>{label}</title>'
        f'<path d="M3 0h{a + 9}v20H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="#3a3f45"/>'
        f'<path d="M{a + 12} 0h{b + 9}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{b + 9}z" fill="{colour}"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f'<text x="6" y="14" textLength="{a}" lengthAdjust="spacingAndGlyphs">{html.escape(left)}</text>'
        f'<text x="{a + 18}" y="14" textLength="{b}" lengthAdjust="spacingAndGlyphs">{html.escape(right)}</text>'
        "</g></svg>\n"
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONG else text[: LONG - 1] + "…"


def _width(text: str) -> int:
    """About how many pixels Verdana needs at 11; textLength makes it exact."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return round(sum(4.2 if c in _NARROW else 10.2 if c in _WIDE else 6.9 for c in text) + 4.5 * wide)
