"""Figures of boards elsewhere: shown as reported, with none of them on a board of ours."""

from __future__ import annotations

import json

import html5lib
import pytest

from bench import Ledger, Published, ReportedCard, Zoo
from bench.registry import plugins
from leaderboard.documents import Documents
from leaderboard.reported import newest
from leaderboard.site import build, files, publish

MODEL = Published(
    "A2024B", "cifar10", "linf", "8/255", 90.0, 60.0, 55.5, None, 61.0, True, "net", False, "A title",
    "https://arxiv.org/abs/1", "a venue", True, "MIT",
)  # fmt: skip


def zoo(*models):
    return Zoo("elsewhere", lambda: models, lambda m: f"pull(model={m.name!r})")


def page(folder):
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse((folder / "reported.html").read_text())


def test_a_model_stands_on_the_page_and_on_no_board(writer, tmp_path):
    writer.card(4)
    writer.column("a", "a@1()")
    writer.training("at", "w")
    writer.cell("w", "clean@1()", range(4))
    writer.cell("w", "a@1()", range(4), [0])
    writer.ledger.add(zoo(MODEL).card("2026-01-01T00:00:00+00:00"))
    publish(writer.ledger, tmp_path / "site")
    (row,) = [e for e in page(tmp_path / "site").iter("tr") if e.get("class") is None and e.find("td") is not None]
    said = [" ".join("".join(e.itertext()).split()) for e in row]
    assert said == [
        "A2024B doubted by that board", "reported", "net", "90.00", "55.50 (60.00)", "61.00", "8/255", "no",
        "A title a venue", "pull(model='A2024B')",
    ]  # fmt: skip
    boards = [p.read_text() for p in (tmp_path / "site").rglob("*") if p.is_file() and "reported" not in p.name]
    assert not [text for text in boards if "A2024B" in text]
    (board,) = json.loads((tmp_path / "site/api/v1/reported.json").read_text())["boards"]
    assert (board["tier"], board["models"][0]["worse"]) == ("reported", 55.5)


@pytest.mark.parametrize("link", ["javascript:alert(1)", "http://a.example", "https:evil", ' https://x"onclick="1', ""])
def test_only_an_address_over_https_is_a_link(writer, tmp_path, link):
    hostile = "</td><script>alert(1)</script>\u202e"
    facts = vars(MODEL) | {"link": link, "paper": hostile, "name": hostile, "architecture": hostile, "venue": hostile}
    writer.ledger.add(zoo(Published(**facts)).card("<script>"))
    publish(writer.ledger, tmp_path / "site")
    text = (tmp_path / "site" / "reported.html").read_text()
    found = page(tmp_path / "site")
    assert not list(found.iter("script")) and "\u202e" not in text
    assert not [e for e in found.iter("a") if e.get("rel") == "noreferrer"]


@pytest.mark.parametrize(("eps", "said"), [("8/255", True), ("4/255", False)])
def test_a_board_says_that_models_are_reported_under_its_threat(writer, eps, said):
    writer.dataset, writer.threat = "cifar10", f"linf:{eps}"
    writer.card(4)
    writer.column("a", "a@1()")
    writer.cell("w", "clean@1()", range(4))
    writer.cell("w", "a@1()", range(4), [0])
    writer.ledger.add(zoo(MODEL).card("2026-01-01"))
    (text,) = [
        f.content.decode() for f in files(build(writer.ledger)) if f.path.endswith(".html") and "boards/" in f.path
    ]
    assert ("Boards elsewhere report 1 model under this threat" in text) == said


@pytest.mark.parametrize("times", [("2026-01-01", "2026-02-01"), ("2026-02-01", "2026-01-01")])
def test_of_a_board_written_down_twice_the_later_counts_and_equal_ones_are_one(tmp_path, times):
    ledger = Ledger(tmp_path / "ledger")
    one, two = zoo(MODEL).card(times[0]), zoo(MODEL, MODEL).card(times[1])
    for card in (one, two):
        ledger.add(card)
    assert [c.made for c in newest(Documents.of(ledger))] == ["2026-02-01"]
    assert zoo(MODEL).card("2027-01-01").key == one.key


def test_the_command_writes_every_model_of_the_zoo_once(bench, tmp_path):
    """As many models, with the same figures, as bench list zoo has."""
    (tmp_path / "ledger").mkdir()
    for _ in range(2):
        assert bench("publish", "--ledger", "ledger", "--site", "site", "--reported").returncode == 0
    (card,) = [d for d in Ledger(tmp_path / "ledger").all() if isinstance(d, ReportedCard)]
    listed = [entry for z in plugins().all("zoo") for entry in z.entries()]
    assert [m.model_dump() | {"zoo": "robustbench"} for m in card.models] == listed and len(listed) == 236
    rows = [e for e in page(tmp_path / "site").iter("th") if e.get("scope") == "row"]
    assert len(rows) == 236
