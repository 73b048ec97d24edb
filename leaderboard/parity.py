"""Published tables beside what the ledger says: paper, ours, difference and z, cell by cell.

What is ours is said by the cards that `bench reproduce` writes: the very trainings and cells of a row.  A card names
them by their keys, which are hashes of every setting, so that nothing is matched by its name or its looks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench import ThreatModel, lies, newest
from leaderboard.arithmetic import Number, Outcome, Place, count, examine, outcomes
from leaderboard.published import Paper, PaperPart, PaperRow, PaperTable, Quoted
from leaderboard.rows import CLEAN
from leaderboard.trust import raised
from leaderboard.words import name_of

if TYPE_CHECKING:
    from bench import TableCard, TableColumn, TrainingRecord
    from leaderboard.documents import Documents

Z = (
    "difference / sqrt(s²/k + S²/K): s and S are the standard deviations over our k training seeds and the paper's K "
    "runs; it is how many standard errors apart the two means are. Both are of the same test images, so that chance "
    "in these is not in it. With so few seeds a z of 2 or 3 is no rarity."
)


@dataclass(frozen=True)
class Compared:
    """A number of a paper beside ours."""

    quoted: Quoted | None
    runs: int  # behind it
    ours: Mapping[int, Number]  # by training seed
    whole: int | None  # test images that the column is about, where that is known

    @cached_property
    def decided(self) -> list[float]:
        """The accuracies of the seeds that are decided, in percent."""
        return [100 * x.accuracy for _, x in sorted(self.ours.items()) if not x.bound]

    @property
    def mean(self) -> float | None:
        """Ours over the seeds, in percent; None until one is decided."""
        return statistics.mean(self.decided) if self.decided else None

    @property
    def sd(self) -> float | None:
        """The sample standard deviation over the seeds, in points; None for fewer than two."""
        return statistics.stdev(self.decided) if len(self.decided) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of one seed alone: the Wilson interval over its images, in percent."""
        if len(self.decided) != 1:
            return None
        (number,) = (x for x in self.ours.values() if not x.bound)
        return 100 * number.interval[0], 100 * number.interval[1]

    @property
    def n(self) -> int:
        """The fewest images behind a seed's number; 0 where there is none."""
        return min((x.n for x in self.ours.values() if not x.bound), default=0)

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, in points."""
        return None if self.mean is None or self.quoted is None else self.mean - self.quoted.mean

    @property
    def z(self) -> float | None:
        """The difference in standard errors; None where `why` says why."""
        if self.why or self.difference is None or self.sd is None or self.quoted is None or self.quoted.sd is None:
            return None
        return self.difference / math.sqrt(self.sd**2 / len(self.decided) + self.quoted.sd**2 / self.runs)

    @property
    def why(self) -> str:
        """Why there is no z; empty where there is one."""
        if not self.ours:
            return "not yet run"
        if not self.decided:
            return "not yet decided on every image"
        if self.quoted is None:
            return "the paper has no such number"
        if self.quoted.sd is None:
            return "the paper gives no deviation"
        if len(self.decided) < 2:
            return "one seed: only the interval over its images"
        if self.whole is None or self.n < self.whole:
            return f"on {self.n:,} of {self.whole:,} images" if self.whole else f"on {self.n:,} images"
        if not self.sd and not self.quoted.sd:
            return "neither deviates"
        return ""


@dataclass(frozen=True)
class ParityLine:
    """A row of a table, one variant of its recipe, and which weights."""

    row: PaperRow
    variant: str
    which: str
    seeds: tuple[int, ...]  # trained here
    trained: str  # the recipe that was trained here, with every setting
    older: int  # other sets of trainings that answer it, made before: a defense's version or a setting has changed
    cells: Mapping[str, Compared]  # by the paper's column
    doubts: tuple[str, ...] = ()  # those about our models that say that a number lies, whatever the protocol


@dataclass(frozen=True)
class ParityPart:
    """The rows of a table that share data set, net and threat."""

    part: PaperPart
    lines: tuple[ParityLine, ...]


@dataclass(frozen=True)
class ParityTable:
    """A published table beside ours."""

    paper: Paper
    table: PaperTable
    parts: tuple[ParityPart, ...]

    @property
    def run(self) -> tuple[int, int]:
        """How many of its cells have a number of ours, and how many there are."""
        cells = [
            {said: [line.cells[said] for line in part.lines if line.row is row] for said in row.numbers}
            for part in self.parts
            for row in part.part.rows
        ]
        each = [alike for row in cells for alike in row.values()]
        return sum(any(x.mean is not None for x in alike) for alike in each), len(each)


class Answers:
    """What a ledger says of published tables: its cards, joined with trainings and cells."""

    def __init__(self, documents: Documents) -> None:
        self.cards: dict[tuple[str, str, str], list[TableCard]] = {}
        for card in sorted(documents.tables, key=lambda c: c.key):
            self.cards.setdefault((card.paper, card.table, card.row), []).append(card)
        keys = {card.training for card in documents.tables}
        self.trainings: dict[str, list[TrainingRecord]] = {}
        for training in sorted(documents.trainings, key=lambda t: (t.made, sorted(t.weights.items()))):
            if training.key in keys:
                self.trainings.setdefault(training.key, []).append(training)
        weights = {w for made in self.trainings.values() for t in made for w in t.weights.values()}
        cells = outcomes(
            (r for r in documents.records if r.weights in weights), lambda r: documents.distances[r.images]
        )
        self.cells: dict[tuple[str, str, str, str], dict[Place, Outcome]] = {}
        for place, cell in cells.items():
            self.cells.setdefault((place.test, place.net, place.condition, place.weights), {})[place] = cell
        self.images = {card.key: len(card.labels) for card in documents.datasets}
        self.checks = newest(documents.checks)

    def table(self, paper: Paper, table: PaperTable) -> ParityTable:
        """A published table, with ours where the ledger has it."""
        parts = []
        for part in table.parts:
            lines = [line for row in part.rows for line in self._lines(paper, table, part, row)]
            parts.append(ParityPart(part, tuple(lines)))
        return ParityTable(paper, table, tuple(parts))

    def _lines(self, paper: Paper, table: PaperTable, part: PaperPart, row: PaperRow) -> Iterable[ParityLine]:
        """A line a variant and weights: the paper's own recipe always, another where it was run."""
        cards = self.cards.get((paper.name, table.name, place(part, row)), [])
        for variant in row.recipes:
            for which in table.weights:
                mine = [c for c in cards if (c.variant, c.which) == (variant, which)]
                if mine or not variant:
                    yield self._line(table, row, variant, which, mine)

    def _line(
        self, table: PaperTable, row: PaperRow, variant: str, which: str, cards: Sequence[TableCard]
    ) -> ParityLine:  # fmt: skip
        """Of trainings that differ in more than their seed, the set that was made last."""
        alike: dict[tuple[Any, ...], list[tuple[TableCard, TrainingRecord]]] = {}
        for card in cards:
            for training in self.trainings.get(card.training, [])[:1]:
                alike.setdefault(_kind(card, training), []).append((card, training))
        latest = max(alike.values(), key=lambda found: max((t.made, t.key) for _, t in found), default=[])
        cells = {}
        for said, quoted in row.numbers.items():
            ours: dict[int, Number] = {}
            for card, training in latest:
                for column in card.columns:
                    number = self._number(card, training, column) if column.said == said else None
                    if number is not None:
                        ours[training.seed] = number
            whole = next(
                (self._whole(c, column) for c, _ in latest for column in c.columns if column.said == said), None
            )
            cells[said] = Compared(quoted, table.runs, ours, whole)
        seeds = tuple(sorted({training.seed for _, training in latest}))
        trained = latest[0][1].defense if latest else ""
        doubts = dict.fromkeys(text for card, training in latest for text in self._doubts(card, training))
        return ParityLine(row, variant, which, seeds, trained, max(0, len(alike) - 1), cells, tuple(doubts))

    def _doubts(self, card: TableCard, training: TrainingRecord) -> Iterator[str]:
        """The doubts about a training's weights that say that a number lies."""
        weights = training.weights.get(card.which, "")
        found = (self.checks.get((training.net, weights, card.test, threat)) for threat in (None, card.threat))
        checks = [check for check in found if check is not None]
        near = self.cells.get((card.test, training.net, CLEAN, weights), {})
        records = (record for cell in near.values() for record in cell.records)
        yield from (finding.text for finding in raised(checks, records) if lies(finding.text))

    def _whole(self, card: TableCard, column: TableColumn) -> int | None:
        images = self.images.get(card.test)
        return min(images, column.first or images) if images else None

    def _number(self, card: TableCard, training: TrainingRecord, column: TableColumn) -> Number | None:
        """What a column says of a training's weights."""
        weights = training.weights.get(card.which, "")
        near = self.cells.get((card.test, training.net, column.condition, weights), {})
        clean = next((cell for p, cell in near.items() if name_of(p.attack) == CLEAN), None)
        if [name_of(attack) for attack in column.attacks] == [CLEAN]:
            return count(examine([CLEAN], False, None, {CLEAN: clean} if clean else {}), clean)
        if ":" not in card.threat:
            return None
        threat = ThreatModel.parse(card.threat)
        mine = {p.attack: cell for p, cell in near.items() if p.threat == card.threat}
        mine |= {p.attack: cell.within(threat) for p, cell in near.items() if p.threat == threat.norm}
        return count(examine(column.attacks, column.strict, clean, mine, column.first), clean)


def place(part: PaperPart, row: PaperRow) -> str:
    """Where a row lies in its table, as a card says it."""
    return f"{part.dataset}/{part.net}/{row.name}"


def _kind(card: TableCard, training: TrainingRecord) -> tuple[Any, ...]:
    """What seeds of one line have in common: the whole recipe, the data and the columns."""
    columns = tuple((c.said, tuple(c.attacks), c.strict, c.first, c.condition) for c in card.columns)
    return (
        training.defense,
        training.net,
        training.train,
        training.val,
        training.threat,
        card.test,
        card.threat,
        columns,
    )


def plain(found: ParityTable) -> dict[str, Any]:
    """A table as plain values, for json.dumps; accuracies in percent."""
    done, cells = found.run
    return {
        "paper": found.paper.name,
        "arxiv": found.paper.arxiv,
        "table": found.table.name,
        "about": found.table.about,
        "runs": found.table.runs,
        "notes": list(found.table.notes),
        "cells": cells,
        "run": done,
        "rows": [_plain_line(part.part, line) for part in found.parts for line in part.lines],
    }


def _plain_line(part: PaperPart, line: ParityLine) -> dict[str, Any]:
    return {
        "row": place(part, line.row),
        "dataset": part.dataset,
        "net": part.net,
        "threat": part.threat,
        "defense": line.row.defense,
        "said": line.row.said,
        "recipe": line.row.recipe(line.variant),
        "variant": line.variant or None,
        "weights": line.which,
        "seeds": list(line.seeds),
        "trained": line.trained or None,
        "older": line.older,
        "doubts": list(line.doubts),
        "columns": {said: _plain_cell(part.columns[said].column, x) for said, x in line.cells.items()},
    }


def _plain_cell(column: str, x: Compared) -> dict[str, Any]:
    return {
        "column": column,
        "paper": x.quoted.mean if x.quoted else None,
        "paper_sd": x.quoted.sd if x.quoted else None,
        "ours": _rounded(x.mean),
        "ours_sd": _rounded(x.sd),
        "interval": [round(end, 4) for end in x.interval] if x.interval else None,
        "seeds": len(x.decided),
        "n": x.n,
        "difference": _rounded(x.difference),
        "z": _rounded(x.z),
        "why_no_z": x.why or None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
