"""Measured tables in pages that people wrote."""

from __future__ import annotations

from pathlib import Path


def fill(page: Path, name: str, text: str) -> None:
    """Put text between the marks of that name, `<!-- name -->` and `<!-- /name -->`."""
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, mark, rest = page.read_text(encoding="utf-8").partition(start)
    _, closing, after = rest.partition(end)
    if not mark or not closing:
        raise SystemExit(f"{page} has no place for {name}: expected the lines {start.strip()} and {end.strip()}")
    page.write_text(f"{before}{start}{text}\n{end}{after}", encoding="utf-8")
