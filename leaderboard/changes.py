"""When the boards changed: by day, as a feed, and what they were at an earlier time."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from bench import CertificateRecord, CheckRecord, Picture, Record, ReportedCard, TrainingRecord, UsageError
from leaderboard.rows import CLEAN, OFFICIAL
from leaderboard.words import natural, printable, short

if TYPE_CHECKING:
    from leaderboard.documents import Documents
    from leaderboard.rows import Section
    from leaderboard.shell import Site

Source = Record | TrainingRecord
Dated = Source | ReportedCard | CheckRecord | CertificateRecord | Picture
PACKAGE = "rampart-bench"  # as records name the version that made them
ENTRIES = 100  # of the feed: the newest


def moment(made: str) -> datetime | None:
    """The time in a record; None where it is none."""
    try:
        found = datetime.fromisoformat(made)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def until(documents: Documents, as_of: str) -> Documents:
    """What there was at a time, at the end of a day, or with the versions of Rampart up to one.

    Cards of data sets, columns and exams say nothing by themselves and stay.
    """
    then = _before(as_of)
    return replace(
        documents,
        records=tuple(r for r in documents.records if then(r)),
        trainings=tuple(t for t in documents.trainings if then(t)),
        reported=tuple(c for c in documents.reported if then(c)),
        checks=tuple(c for c in documents.checks if then(c)),
        pictures=tuple(p for p in documents.pictures if then(p)),
        certificates=tuple(c for c in documents.certificates if then(c)),
    )


def _before(as_of: str) -> Callable[[Dated], bool]:
    if re.fullmatch(r"[0-9]+(\.[0-9]+){1,3}", as_of):
        last = natural(as_of)

        def no_later(source: Dated) -> bool:
            """What is reported elsewhere has no version of ours."""
            made_by = {} if isinstance(source, ReportedCard) else source.versions
            return not made_by or (PACKAGE in made_by and natural(made_by[PACKAGE]) <= last)

        return no_later
    try:
        day = date.fromisoformat(as_of)
        end: datetime | None = datetime.combine(day, time.max, UTC)
    except ValueError:
        end = moment(as_of)
    if end is None:
        raise UsageError(
            f"--as-of {as_of}: expected a day (2026-10-01), a time (2026-10-01T12:00Z) or a version (0.1.0)"
        )

    def then(source: Dated) -> bool:
        made = moment(source.made)
        return made is not None and made <= end

    return then


@dataclass(frozen=True)
class Change:
    """What was made on one day for one board."""

    day: str  # 2026-10-01, UTC
    section: Section
    records: int
    trainings: tuple[str, ...]  # the labels of defenses
    updated: datetime


class Log:
    """The days of a ledger, and which boards changed on each."""

    def __init__(self, site: Site) -> None:
        self.undated = 0
        self.records: dict[str, int] = {}
        self.trainings: dict[str, int] = {}
        boards: dict[tuple[str, str], list[tuple[int, Section]]] = {}  # by net and weights
        for place, section in enumerate(site.board.sections):
            for subject in {(row.net_key, row.weights) for row in section.rows}:
                boards.setdefault(subject, []).append((place, section))
        found: dict[tuple[str, int], tuple[Section, list[Source], list[datetime]]] = {}
        for source, subjects in _sources(site):
            made = moment(source.made)
            if made is None:
                self.undated += 1
                continue
            day = made.date().isoformat()
            counts = self.records if isinstance(source, Record) else self.trainings
            counts[day] = counts.get(day, 0) + 1
            near = {place: section for subject in subjects for place, section in boards.get(subject, ())}
            for place, section in near.items():
                if isinstance(source, TrainingRecord) or _part_of(source, section):
                    entry = found.setdefault((day, place), (section, [], []))
                    entry[1].append(source)
                    entry[2].append(made)
        self.changes = [
            Change(
                day, section, sum(isinstance(s, Record) for s in sources),
                tuple(sorted({s.label for s in sources if isinstance(s, TrainingRecord)}, key=natural)), max(times),
            )
            for (day, _), (section, sources, times) in sorted(found.items(), key=lambda item: item[0])
        ]  # fmt: skip

    @property
    def days(self) -> list[str]:
        """Every day on which something was made, the first one first."""
        return sorted({*self.records, *self.trainings})


def _sources(site: Site) -> Iterable[tuple[Source, list[tuple[str, str]]]]:
    """Records and trainings, each with the nets and weights that it is about."""
    for record in site.documents.records:
        yield record, [(record.net, record.weights)]
    for training in site.documents.trainings:
        yield training, [(training.net, weights) for weights in training.weights.values()]


def _part_of(record: Record, section: Section) -> bool:
    """Whether a record counts on a board."""
    if record.test != section.test:
        return False
    if section.threat is None and section.condition.removeprefix(OFFICIAL) == "corruptions":
        official = record.condition.startswith(OFFICIAL)
        return record.condition != CLEAN and official == section.condition.startswith(OFFICIAL)
    if short(record.condition) != section.condition:
        return False
    if record.threat is None or section.threat is None:
        return record.threat == section.threat or record.threat is None
    return record.threat in (section.threat, section.threat.partition(":")[0])


def feed(site: Site, log: Log) -> bytes:
    """The changes as Atom (RFC 4287), the newest first."""
    entries = [_entry(site, c) for c in sorted(log.changes, key=lambda c: (c.updated, c.day), reverse=True)[:ENTRIES]]
    updated = max((c.updated for c in log.changes), default=datetime(1970, 1, 1, tzinfo=UTC))
    first = site.board.made[0] if site.board.made else ""
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<feed xmlns="http://www.w3.org/2005/Atom">',
        f"<id>{_name('feed', first)}</id>",
        "<title>Rampart: changes of the boards</title>",
        f"<updated>{_time(updated)}</updated>",
        "<author><name>Rampart</name></author>",
        '<link rel="self" href="changes.atom"/>',
        '<link rel="alternate" type="text/html" href="index.html"/>',
        *entries,
        "</feed>",
        "",
    ]
    return "\n".join(lines).encode()


def _entry(site: Site, change: Change) -> str:
    board = site.board_of(change.section)
    heading = " · ".join(map(printable, change.section.heading))
    many = len(change.trainings)
    new = f"{many} newly trained defense{'s' if many != 1 else ''}, " if many else ""
    title = f"{heading}: {new}{change.records:,} record{'s' if change.records != 1 else ''}"
    said = f"Newly trained: {', '.join(map(printable, change.trainings[:50]))}." if many else "New records alone."
    return (
        f"<entry><id>{_name(change.day, board)}</id><title>{escape(title)}</title>"
        f"<updated>{_time(change.updated)}</updated><link href={quoteattr(board)}/>"
        f"<summary>{escape(said)}</summary></entry>"
    )


def _name(*parts: str) -> str:
    """A name that stays the same for the same parts."""
    return uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(("rampart", *parts))).urn


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
