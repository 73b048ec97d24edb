"""The board as it was, the days on which it changed, and the feed: each a pure function of the records."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from datetime import datetime

import pytest

from bench import Ledger, UsageError
from leaderboard.changes import Log, feed, until
from leaderboard.documents import Documents
from leaderboard.site import build, files
from tests.leaderboard.conftest import Writer

A = "a@1()"
ATOM = "{http://www.w3.org/2005/Atom}"


class Clock(Writer):
    """Writes documents that were made at a chosen time, by a chosen version."""

    def at(self, when, version="0.1.0"):
        self.when, self.version = when, version
        return self

    def origin(self):
        found = super().origin()
        return found | {"made": self.when, "versions": found["versions"] | {"rampart-bench": self.version}}


@pytest.fixture
def clock(tmp_path):
    return Clock(Ledger(tmp_path / "ledger"))


def first_day(clock):
    clock.at("2026-09-30T10:00:00+00:00").card(4)
    clock.column("a", A)
    clock.training("at", "w")
    clock.cell("w", "clean@1()", range(4))
    clock.cell("w", A, range(4), [0])


def second_day(clock):
    clock.at("2026-10-01T23:59:59Z", "0.2.0")
    clock.training("trades", "v")
    clock.cell("v", "clean@1()", range(4))
    clock.cell("v", A, range(4), [0, 1])


def made(ledger, as_of=""):
    """Every file of a site, without a disk to wait for."""
    return {file.path: file.content for file in files(build(ledger, as_of=as_of))}


def boards(found):
    kinds = (".csv", ".md", ".tex", ".svg", "board.json")
    return {path: content for path, content in found.items() if path.endswith(kinds)}


@pytest.mark.parametrize("as_of", ["2026-09-30", "2026-10-01T12:00Z", "2026-10-01T22:59:58-01:00", "0.1.0", "0.1.99"])
def test_the_board_as_it_was_is_the_board_of_the_records_made_until_then(clock, tmp_path, as_of):
    first_day(clock)
    shutil.copytree(clock.ledger.root, tmp_path / "before")
    second_day(clock)
    then, was = made(clock.ledger, as_of), made(Ledger(tmp_path / "before"))
    assert boards(then) == boards(was) and len(boards(was)) == 6
    assert json.loads(then["api/v1/index.json"])["as_of"] == as_of
    assert f"As of {as_of}." in then["index.html"].decode()


@pytest.mark.parametrize("as_of", ["2026-10-01", "2026-10-01T23:59:59", "0.2.0", "0.10", "9999-12-31"])
def test_a_day_holds_its_last_second_and_a_version_itself(clock, as_of):
    first_day(clock)
    second_day(clock)
    documents = Documents.of(clock.ledger)
    assert until(documents, as_of).records == documents.records


@pytest.mark.parametrize("as_of", ["yesterday", "2026-13-01", "2026-10-01'", "1", ""])
def test_what_is_no_time_is_refused(as_of):
    with pytest.raises(UsageError, match="expected a day"):
        until(Documents(), as_of)


def test_the_command_line_names_what_is_no_time(bench, tmp_path):
    (tmp_path / "ledger").mkdir()
    ended = bench("publish", "--ledger", "ledger", "--as-of", "soon")
    assert ended.returncode == 2 and "--as-of soon: expected a day (2026-10-01)" in ended.stderr


def test_history_counts_each_day_and_later_days_leave_earlier_ones_as_they_are(clock):
    first_day(clock)
    (before,) = history(clock)
    assert (before["date"], before["records"], before["trainings"], len(before["boards"])) == ("2026-09-30", 2, 1, 1)
    second_day(clock)
    one, two = history(clock)
    assert one == before and (two["date"], two["records"], two["trainings"]) == ("2026-10-01", 2, 1)


def history(clock):
    from leaderboard.machines import _history

    site = build(clock.ledger)
    return [vars(day) for day in _history(site, Log(site)).days]


def entries(clock):
    site = build(clock.ledger)
    return ET.fromstring(feed(site, Log(site)))


def test_the_feed_is_atom_and_an_entry_keeps_its_name(clock):
    """RFC 4287: a feed and each entry have one id, title and updated; the feed an author."""
    first_day(clock)
    before = {e.findtext(ATOM + "id") for e in entries(clock).iter(ATOM + "entry")}
    second_day(clock)
    found = entries(clock)
    for element in (found, *found.iter(ATOM + "entry")):
        for name in ("id", "title", "updated"):
            assert len(element.findall(ATOM + name)) == 1
        assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", element.findtext(ATOM + "id"))
        datetime.strptime(element.findtext(ATOM + "updated"), "%Y-%m-%dT%H:%M:%S%z")
    assert found.findtext(f"{ATOM}author/{ATOM}name") == "Rampart"
    newest, oldest = found.iter(ATOM + "entry")
    assert found.findtext(ATOM + "updated") == newest.findtext(ATOM + "updated") == "2026-10-01T23:59:59Z"
    assert newest.findtext(ATOM + "title") == "digits · linf:0.1 · clean: 1 newly trained defense, 2 records"
    assert "trades" in newest.findtext(ATOM + "summary") and before == {oldest.findtext(ATOM + "id")}


@pytest.mark.parametrize("when", ["", "<script>", "2026-99-01", "x" * 1000, "0001-01-01T00:00:00+23:59", "\u202e"])
def test_a_time_that_is_none_is_counted_and_breaks_nothing(clock, when):
    first_day(clock)
    clock.at(when)
    clock.cell("w", "b@1()", range(4))
    clock.training("odd", "u")
    pages = made(clock.ledger)
    found = json.loads(pages["api/v1/history.json"])
    assert found["undated"] == 2 and [d["date"] for d in found["days"]] == ["2026-09-30"]
    ET.fromstring(pages["changes.atom"])
    assert b"<script>" not in pages["machines.html"]
    assert not [r for r in until(Documents.of(clock.ledger), "2026-10-01").records if r.made == when]


def test_the_first_year_has_four_digits_too(clock):
    first_day(clock)
    clock.at("0001-01-02T00:00:00+00:00").cell("w", "clean@1()", range(4), [1], seed=1)
    assert history(clock)[0]["date"] == "0001-01-02"
    assert [e.findtext(ATOM + "updated") for e in entries(clock).iter(ATOM + "entry")][-1] == "0001-01-02T00:00:00Z"


def test_a_record_counts_on_the_boards_that_it_is_part_of(clock):
    """Clean answers count under every threat; an attack's under its own; a minimum-norm attack's under its norm's."""
    first_day(clock)
    clock.at("2026-10-02T00:00:00Z").cell("w", A, range(4), [0, 1, 2], threat="linf:0.2")
    clock.at("2026-10-03T00:00:00Z").cell("w", "clean@1()", range(4), [1], seed=1)
    for severity in (1, 2):
        clock.at("2026-10-04T00:00:00Z").cell("w", "clean@1()", range(4), condition=f"fog@1():{severity}")
    site = build(clock.ledger)
    found = {}
    for change in Log(site).changes:
        found.setdefault(change.day[-2:], []).append((change.section.threat, change.section.condition, change.records))
    assert found == {
        "30": [("linf:0.1", "clean", 2), ("linf:0.2", "clean", 1), (None, "corruptions", 0)],
        "02": [("linf:0.2", "clean", 1)],
        "03": [("linf:0.1", "clean", 1), ("linf:0.2", "clean", 1)],
        "04": [(None, "corruptions", 2)],
    }  # fmt: skip
