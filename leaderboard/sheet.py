"""The contact sheet of corruptions, as one SVG that needs nothing else."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from leaderboard.canvas import png
from leaderboard.words import printable

if TYPE_CHECKING:
    from bench import Sheet

SIDE, GAP, LEFT, TOP = 64, 6, 150, 58  # pixels of a picture, between pictures, and for the labels
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1c2024}rect{fill:#fff}image{image-rendering:pixelated}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e8eb}rect{fill:#111418}}"
)


def sheet_svg(sheet: Sheet) -> str:
    """A row for each corruption, a column for each severity, the clean image before them: the same text every time."""
    columns = len(sheet.rows[0][1]) + 1
    width, height = LEFT + columns * (SIDE + GAP), TOP + len(sheet.rows) * (SIDE + GAP) + 8
    name = f"{printable(sheet.dataset)}, test image {sheet.place} ({printable(sheet.label)})"
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">',
        f'<title id="title">Corruptions of {escape(name)}</title>',
        f'<desc id="desc">{escape(_described(sheet))}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}"/>',
        f'<text x="8" y="20" font-weight="600">{escape(name)}</text>',
        *(
            f'<text x="{_x(column) + SIDE / 2:g}" y="{TOP - 8}" text-anchor="middle">{column or "clean"}</text>'
            for column in range(columns)
        ),
    ]
    for row, (corruption, pictures) in enumerate(sheet.rows):
        y = TOP + row * (SIDE + GAP)
        parts.append(f'<text x="8" y="{y + SIDE / 2 + 4:g}">{escape(printable(corruption))}</text>')
        for column, picture in enumerate((sheet.clean, *pictures)):
            parts.append(f'<image x="{_x(column)}" y="{y}" width="{SIDE}" height="{SIDE}" href="{png(picture)}"/>')
    return "\n".join([*parts, "</svg>", ""])


def _x(column: int) -> int:
    return LEFT + column * (SIDE + GAP)


def _described(sheet: Sheet) -> str:
    """What the picture shows, for who does not see it."""
    names = ", ".join(printable(name) for name, _ in sheet.rows)
    without = "".join(f" Without {printable(name)}: {printable(why)}." for name, why in sheet.left_out)
    return f"One image, clean and at severities 1 to {len(sheet.rows[0][1])}, a row each for: {names}.{without}"
