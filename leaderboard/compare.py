"""Two models side by side: where they disagree and the exact paired test; and every pair of the best of a board."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from leaderboard.evidence import WORST
from leaderboard.pairs import Matrix, matrix, packed
from leaderboard.rows import Row, Section, place
from leaderboard.shell import File, Site
from leaderboard.telling import best, telling
from leaderboard.views import NOT_TRUSTED
from leaderboard.words import printable

NAV = ("Compare", "compare.html")
KINDS = {"compare": "compare"}

BEST = 8  # models in the table of all pairs
BYTES = 3_000_000  # of fallen images beside a page, about


def pages(site: Site) -> Iterator[File]:
    """A page for each board but those of corruptions, the images beside it as a script, and the list."""
    labels = {card.key: card for card in site.documents.datasets}
    found = []
    for section in site.board.sections:
        match = Match(site, section)
        if section.summary == "mean":
            continue
        found.append(match)
        card = labels.get(section.test)
        classes = ([printable(c) for c in card.classes], card.labels) if card else ([], [])
        yield File(match.data, match.script(*classes).encode())
        yield site.render(
            "compare.html", match.path, title=f"Compare: {' · '.join(section.heading)}", nav="Compare", match=match
        )
    yield site.render("compares.html", "compare.html", title="Compare", found=found)


@dataclass(frozen=True, eq=False)
class Match:
    """The models of a board, for one to be set beside another."""

    site: Site
    section: Section

    @property
    def path(self) -> str:
        """Where its page lies."""
        return self.site.path("compare", *place(self.section))

    @property
    def data(self) -> str:
        """Where its data lie: a script, for a page that is opened as a file may read nothing else."""
        return str(PurePosixPath(self.path).with_suffix(".js"))

    @cached_property
    def models(self) -> list[Row]:
        """A row for each model of which images are known, in the order of the board."""
        found: dict[tuple[str, str], Row] = {}
        for row in self.section.rows:
            if row.evidence.columns:
                found.setdefault((row.net_key, row.weights), row)
        return list(found.values())

    @cached_property
    def columns(self) -> list[str]:
        """The columns that two models or more share, the one that sums up first."""
        order = [WORST, *reversed([h.name for h in self.section.heads])]
        return [c for c in order if sum(c in row.evidence.columns for row in self.models) > 1]

    @cached_property
    def column(self) -> str:
        """The one that tells most of the models."""
        return telling(self.section)

    @cached_property
    def best(self) -> list[Row]:
        """The best models that this column is decided for."""
        return best(self.section, BEST)

    @cached_property
    def pairs(self) -> Matrix:
        """All against all of the best."""
        return matrix([row.evidence.columns.get(self.column) for row in self.best])

    def script(self, classes: Sequence[str], labels: Sequence[int]) -> str:
        """The data: of each model, by column, which images fell, a bit each; as many models as fit."""
        models: list[dict[str, Any]] = []
        size = 0
        for row in self.models:
            columns = {
                c: [f.n, f.bound, packed(f)] for c in self.columns if (f := row.evidence.columns.get(c)) is not None
            }
            size += sum(len(str(bits)) for _, _, bits in columns.values())
            if size > BYTES:
                break
            models.append(
                {
                    "id": row.weights[:12], "name": named(row), "columns": columns,
                    "page": self.site.model_of(row, self.path),
                }
            )  # fmt: skip
        most = max((f.n for row in self.models for f in row.evidence.columns.values()), default=0)
        found = {
            "columns": self.columns, "start": self.column, "models": models,
            "pair": [row.weights[:12] for row in self.best[:2]], "left_out": len(self.models) - len(models),
            "classes": list(classes), "labels": list(labels[:most]),
        }  # fmt: skip
        return f"globalThis.compared = {json.dumps(found, ensure_ascii=True, separators=(',', ':'))};\n"


def named(row: Row) -> str:
    """A model, told from the others of its board."""
    maker = row.maker
    trust = "" if row.trusted else NOT_TRUSTED
    said = [maker.defense, row.net, f"seed {maker.seed}" if maker.seed is not None else "", maker.which, trust]
    return printable(", ".join(part for part in said if part))
