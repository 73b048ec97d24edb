"""How to read a number: one page of text, for a researcher."""

from __future__ import annotations

from collections.abc import Iterator

from leaderboard import canaries
from leaderboard.shell import File, Site

NAV = ("Method", "method.html")


def pages(site: Site) -> Iterator[File]:
    """The page."""
    yield site.render(
        "method.html", "method.html", title="How to read a number", canaries=canaries.canaries(),
        alarms=canaries.alarms(),
    )  # fmt: skip
