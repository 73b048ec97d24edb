"""A published table as exams: the trainings and cells that answer its rows, and the cards that say which they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.errors import UsageError, nearest
from bench.exam import CLEAN, digest
from bench.records import TableCard, TableColumn
from bench.request import Request, resolve
from bench.threat import ThreatModel

if TYPE_CHECKING:
    from bench.exam import Precision, Which
    from bench.place import Place
    from bench.request import Exam


@dataclass(frozen=True)
class TableRow:
    """A row of a published table: its place there, and the recipe that repeats it."""

    row: str  # data set/net/name
    recipe: str


@dataclass(frozen=True)
class TableExam:
    """The rows of a published table that are one exam, in the words of the command line."""

    paper: str
    table: str
    variant: str
    dataset: str
    net: str
    threat: str
    suite: str
    weights: tuple[Which, ...]
    columns: tuple[tuple[str, str, str], ...]  # the paper's column, and the suite's column and the condition it is here
    rows: tuple[TableRow, ...]

    def ask(self, row: TableRow, place: Place, seeds: Sequence[int], n: int, precision: Precision = "exact") -> Exam:
        """The exam of one row: exactly the trainings and cells that `bench run` has for its recipe and suite."""
        conditions = tuple(dict.fromkeys(condition for _, _, condition in self.columns))
        exam = resolve(
            Request(
                (row.recipe,), self.net, self.dataset, seeds=tuple(seeds), suite=self.suite, conditions=conditions,
                n=n, weights=self.weights, precision=precision,
            ),
            place,
        )  # fmt: skip
        if exam.threat != ThreatModel.parse(self.threat):
            raise UsageError(f"suite {self.suite} is under {exam.threat} here; the table is under {self.threat}")
        keys = self._conditions(exam)
        wanted = {(column, keys[condition]) for _, column, condition in self.columns}
        for column, _ in wanted:
            if column not in exam.columns:
                raise UsageError(f"suite {self.suite} has no column {column!r}{nearest(column, exam.columns)}")
        if any(exam.columns[column].strict for column, _ in wanted):
            wanted |= {(CLEAN, key) for key in keys.values()}
        questions = tuple(question for question in exam.questions if question in wanted)
        kept = {name: column for name, column in exam.columns.items() if name in {c for c, _ in questions}}
        return replace(exam, columns=kept, questions=questions)

    def cards(self, row: TableRow, exam: Exam) -> Iterator[TableCard]:
        """What says that an exam's trainings and cells answer a row: a card a training and weights."""
        keys = self._conditions(exam)
        columns = [
            TableColumn(said=said, attacks=list(c.attacks), strict=c.strict, first=c.first, condition=keys[condition])
            for said, column, condition in self.columns
            for c in [exam.columns[column]]
        ]
        for lesson in exam.lessons:
            for which in exam.weights:
                facts = {
                    "paper": self.paper, "table": self.table, "row": row.row, "variant": self.variant,
                    "training": lesson.training.key, "which": which, "test": exam.dataset.test.hash,
                    "threat": str(exam.threat), "columns": [column.model_dump() for column in columns],
                }  # fmt: skip
                yield TableCard.model_validate({"key": digest(facts), **facts})

    def _conditions(self, exam: Exam) -> dict[str, str]:
        """The full key of each condition; an exam has them in the order in which they were asked for."""
        asked = dict.fromkeys(condition for _, _, condition in self.columns)
        found = dict.fromkeys(condition for _, condition in exam.questions)
        return dict(zip(asked, found, strict=True))


def together(exams: Sequence[Exam]) -> Exam:
    """The exams of several rows as one: their trainings and defenses together; all else they share."""
    first = exams[0]
    return replace(
        first,
        lessons=tuple(dict.fromkeys(lesson for exam in exams for lesson in exam.lessons)),
        defenses={key: recipe for exam in exams for key, recipe in exam.defenses.items()},
        nets={key: recipe for exam in exams for key, recipe in exam.nets.items()},
        unset=tuple(dict.fromkeys(name for exam in exams for name in exam.unset)),
    )
