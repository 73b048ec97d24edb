"""What every page of the site shares: the documents behind it, the addresses of all pages, and their frame.

A page module has a function `pages(site: Site) -> Iterator[File]`.  It may also name its place in the header and the
kinds of pages that it serves, so that others link to them:

    NAV = ("Attacks", "attacks.html")
    KINDS = {"attack": "attacks"}      # pages about an attack lie in the folder attacks/

    def pages(site: Site) -> Iterator[File]:
        \"\"\"A page for each attack.\"\"\"
        for key in attacks_of(site.documents.records):
            yield site.render("attack.html", site.path("attack", key), title=short(key), attack=key)

Its template begins with `{% extends "base.html" %}` and fills the blocks `main`, `styles` and `scripts`.  There
`link(kind, *id)` is the relative address of another page ("" where no module serves that kind), `file(path)` that of
any file of the site.  Values are escaped; labels of records go through the filter `printable` and into a `<bdi>`.
No style attributes and no inline script: the Content-Security-Policy forbids them.  A module's style is a file in
static/ of its own, which every page links; rules that depend on data go into `render(..., rules="...")`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from leaderboard import words
from leaderboard.views import View, views

if TYPE_CHECKING:
    from jinja2 import Environment

    from bench import Ledger
    from leaderboard.documents import Documents
    from leaderboard.pictures import Figure
    from leaderboard.rows import Board, Row, Section

HERE = Path(__file__).parent


@dataclass(frozen=True)
class File:
    """A file of the site: its path from the site's folder, with slashes, and what it holds."""

    path: str
    content: bytes


def slug(name: str, *key: str) -> str:
    """A file name for a thing: what of its name is safe anywhere, and a piece of the hash of its key.

    It is the same whatever else the ledger holds, so that links last.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    safe = re.sub(r"[^a-z0-9]+", "-", plain)[:48].strip("-")
    digest = hashlib.sha256("\n".join(key or (name,)).encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{safe}-{digest}" if safe else digest


@dataclass(frozen=True, eq=False)
class Site:
    """The board, the documents behind it, and where every page lies."""

    board: Board
    documents: Documents
    ledger: Ledger  # for sidecars: ledger.images(record)
    first: int = 0  # only so many of the first test images count; 0 is all
    as_of: str = ""  # only what was made until then counts
    kinds: Mapping[str, str] = field(default_factory=dict)  # kind of page to folder
    nav: tuple[tuple[str, str], ...] = ()  # label and path, in the header's order
    sheets: tuple[str, ...] = ()  # the style sheets, as paths

    def path(self, kind: str, *key: str) -> str:
        """Where the page about a thing lies.

        kind and key: board (test, threat, condition), model (net, weights), attack (recipe key), data (test); net,
        weights and test are keys and hashes as in records.
        """
        return f"{self.kinds[kind]}/{slug(self._name(kind, key), *key)}.html"

    def _name(self, kind: str, key: tuple[str, ...]) -> str:
        match kind:
            case "board" | "compare" | "plots":
                test, threat, condition = key
                return f"{self.datasets.get(test, test[:7])} {threat or 'no threat'} {condition}"
            case "model":
                return self.labels.get((key[0], key[1]), "")
            case "data":
                return self.datasets.get(key[0], "")
            case _:
                return words.short(key[0])

    @cached_property
    def datasets(self) -> dict[str, str]:
        """The name of each test part, by its hash: the first in the alphabet where records disagree."""
        named = [(r.test, r.dataset) for r in self.documents.records]
        named += [(card.key, card.name) for card in self.documents.datasets]
        return dict(sorted(set(named), reverse=True))

    @cached_property
    def labels(self) -> dict[tuple[str, str], str]:
        """The defense behind each net and weights; the first in the alphabet where several made them."""
        named = {(t.net, weights, t.label) for t in self.documents.trainings for weights in t.weights.values()}
        return {(net, weights): label for net, weights, label in sorted(named, reverse=True)}

    @cached_property
    def views(self) -> tuple[View, ...]:
        """The boards as they are shown, made once."""
        return views(self.board)

    @cached_property
    def pictures(self) -> tuple[Figure, ...]:
        """The pictures, drawn once."""
        from leaderboard.pictures import figures  # a page module, which imports this one

        return figures(self)

    def link(self, kind: str, *key: str, page: str = "") -> str:
        """The relative address of a page about a thing, seen from `page`; "" where no module serves such pages."""
        return self.file(self.path(kind, *key), page) if kind in self.kinds else ""

    def file(self, path: str, page: str = "") -> str:
        """The relative address of a file of the site, seen from `page`."""
        return "../" * (len(PurePosixPath(page).parts) - 1) + path if page else path

    def board_of(self, section: Section) -> str:
        """The path of a section's board."""
        return self.path("board", section.test, section.threat or "", section.condition)

    def model_of(self, row: Row, page: str = "") -> str:
        """The address of the page about a row's model."""
        return self.link("model", row.net_key, row.weights, page=page)

    def render(self, template: str, path: str, /, *, rules: str = "", **values: Any) -> File:
        """A page: the template in its frame.  rules: CSS that this page alone needs."""
        style = base64.b64encode(hashlib.sha256(rules.encode()).digest()).decode() if rules else ""
        text = self.environment.get_template(template).render(
            site=self, board=self.board, path=path, rules=rules, style_hash=style,
            link=lambda kind, *key: self.link(kind, *key, page=path),
            file=lambda target: self.file(target, path),
            **values,
        )  # fmt: skip
        return File(path, text.encode())

    @cached_property
    def environment(self) -> Environment:
        """Jinja with every value escaped, and a mistake in a template an error."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        found = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        )  # fmt: skip
        found.filters |= {
            "printable": words.printable, "percent": words.percent, "amount": words.amount,
            "duration": words.duration, "short": words.short, "commas": "{:,}".format,
        }  # fmt: skip
        return found


def assets() -> Iterator[File]:
    """The style sheets, scripts and icon of the site."""
    for path in sorted((HERE / "static").iterdir()):
        yield File(f"static/{path.name}", path.read_bytes())
