"""The pictures that the ledger holds: drawn once each, shown on the pages of their models and in one gallery.

A kind of picture is drawn by a module `leaderboard/picture_KIND.py`, which has a function

    def drawings(picture: Picture, arrays: Mapping[str, NDArray], classes: Sequence[str]) -> list[Drawing]

and a line that says what such a picture shows, SAID.  It reads the arrays and `picture.rows` and computes nothing of a
model; KeyError, ValueError, IndexError or TypeError where the arrays are not what they should be.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from bench import RampartError
from leaderboard.canvas import Drawing
from leaderboard.shell import File, slug
from leaderboard.words import natural, printable

if TYPE_CHECKING:
    from bench import Ledger, Picture
    from leaderboard.shell import Site

NAV = ("Pictures", "pictures.html")
FOLDER = "pictures"
ORDER = (
    "gradients",
    "large-eps",
    "interpolate",
    "examples",
    "masks",
    "regions",
    "confusion",
    "tradeoff",
)  # then the others


class CannotDraw(Exception):  # noqa: N818 - it says what it is
    """A picture cannot be drawn, and why."""


@dataclass(frozen=True, eq=False)
class Figure:
    """A picture with its drawings, or why there are none."""

    picture: Picture
    drawings: tuple[Drawing, ...]
    said: str  # what such a picture shows
    why: str = ""

    @property
    def id(self) -> str:
        """Its place on a page, and how its files' names begin."""
        return slug(f"{self.picture.kind} {self.picture.dataset}", self.picture.key)

    def path(self, name: str = "", ending: str = "svg") -> str:
        """Where a drawing of it lies, or with another ending the numbers."""
        return f"{FOLDER}/{self.id}{'-' + name if name else ''}.{ending}"

    @property
    def settings(self) -> list[tuple[str, str]]:
        """What it was made with, as text."""
        return [
            (k, ", ".join(map(str, v)) if isinstance(v, list) else str(v)) for k, v in self.picture.settings.items()
        ]

    @property
    def rows(self) -> list[list[str]]:
        """Its numbers as text."""
        return [[said(value) for value in row] for row in self.picture.rows]


def said(value: str | float | None) -> str:
    """A number as a table shows it: three figures behind the point at most, and a dash where it is not defined."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"
    return str(value)


def draw(picture: Picture, ledger: Ledger, classes: Sequence[str] = ()) -> list[Drawing]:
    """The drawings of a picture, from its arrays in the ledger; CannotDraw says why there are none."""
    module = _module(picture.kind)
    if module is None:
        raise CannotDraw(f"this version draws no pictures of the kind {printable(picture.kind)}")
    try:
        names, arrays = classes or _classes(picture, ledger), ledger.arrays(picture)
        if not names:
            raise CannotDraw("the ledger holds no card of its data set, which names the classes; bench run adds one")
        found: list[Drawing] = module.drawings(picture, arrays, names)
    except RampartError as error:
        raise CannotDraw(str(error).replace(f"{ledger.root}/", "")) from error
    except (KeyError, ValueError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise CannotDraw(f"its arrays are not those of such a picture: {error!r}") from error
    return found


def _module(kind: str) -> ModuleType | None:
    name = f"leaderboard.picture_{kind.replace('-', '_')}"
    if not re.fullmatch("[a-z][a-z0-9-]*", kind) or importlib.util.find_spec(name) is None:
        return None
    return importlib.import_module(name)


def _classes(picture: Picture, ledger: Ledger) -> list[str]:
    from bench import DatasetCard

    return next((card.classes for card in ledger.of(picture.test, DatasetCard)), [])


def figures(site: Site) -> tuple[Figure, ...]:
    """Every picture of the ledger, drawn; of two documents about one picture the first in the ledger's order."""
    classes = {card.key: card.classes for card in site.documents.datasets}
    once: dict[str, Picture] = {}
    for picture in site.documents.pictures:
        once.setdefault(picture.key, picture)
    shown = [p for p in once.values() if not _outdone(p, once.values())]
    return tuple(sorted((_figure(p, site, classes.get(p.test, [])) for p in shown), key=_rank))


def _outdone(picture: Picture, every: Iterable[Picture]) -> bool:
    """Whether its kind says that another picture shows the same, and more."""
    outdone = getattr(_module(picture.kind), "outdone", None)
    return outdone is not None and any(outdone(picture, other) for other in every if other.kind == picture.kind)


def _figure(picture: Picture, site: Site, classes: Sequence[str]) -> Figure:
    module = _module(picture.kind)
    shows = str(getattr(module, "SAID", ""))
    try:
        return Figure(picture, tuple(draw(picture, site.ledger, classes)), shows)
    except CannotDraw as error:
        return Figure(picture, (), shows, str(error))


def _rank(figure: Figure) -> tuple[object, ...]:
    kind = figure.picture.kind
    at = ORDER.index(kind) if kind in ORDER else len(ORDER)
    return natural(figure.picture.dataset), at, kind, figure.picture.key


def of_model(site: Site, net: str, weights: str) -> list[Figure]:
    """The pictures that show a model."""
    return [f for f in site.pictures if any((m.net, m.weights) == (net, weights) for m in f.picture.models)]


def pages(site: Site) -> Iterator[File]:
    """The drawings, their numbers as CSV, and the gallery."""
    for figure in site.pictures:
        for drawing in figure.drawings:
            yield File(figure.path(drawing.name), drawing.svg.encode())
            if drawing.still:  # browsers do not tell a picture that its reader wants no motion; the page knows
                yield File(figure.path(f"{drawing.name}-still"), drawing.still.encode())
        yield File(figure.path(ending="csv"), _csv(figure.picture).encode())
    by_data: dict[str, list[Figure]] = {}
    for figure in site.pictures:
        by_data.setdefault(figure.picture.dataset, []).append(figure)
    yield site.render("pictures.html", "pictures.html", title="Pictures", by_data=by_data, known=_known(site))


def _known(site: Site) -> set[tuple[str, str]]:
    """The models that have a page."""
    return {(row.net_key, row.weights) for section in site.board.sections for row in section.rows}


def _csv(picture: Picture) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([picture.heads, *picture.rows])
    return text.getvalue()
