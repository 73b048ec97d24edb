"""The published files: the same twice, valid, and unmoved by what names hold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import html5lib
import pytest

from leaderboard.site import Scale, publish
from leaderboard.table import table
from leaderboard.words import printable

A = "a@1()"
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</style></title></table><h1>",
    "&lt;b&gt; {{ 7 * 7 }} {% raw %}",
    "\u202eevil\u2066\u200f",
    "nul \x00 bell \x07 escape \x1b[31m",
    "]]>--><!--",
    "x" * 5000,
    "",
]


def tree(page):
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page.read_text())


def cells(page):
    return ["".join(e.itertext()) for e in tree(page).iter() if e.tag in {"td", "th"}]


def test_publishing_twice_gives_the_same_bytes_wherever_the_ledger_lies(demo, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(demo.root, moved)
    publish(demo, tmp_path / "one")
    publish(type(demo)(moved), tmp_path / "two")
    for name in ("index.html", "board.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["board.json", "index.html"]


def test_the_page_is_valid_and_names_no_other_address_than_the_data(demo, tmp_path):
    page = publish(demo, tmp_path)
    addresses = [e.get(a) for e in tree(page).iter() for a in ("src", "href") if isinstance(e.tag, str) and e.get(a)]
    assert [a for a in addresses if not a.startswith(("data:", "#"))] == ["board.json"] * 2
    assert "url(" not in page.read_text() and "@import" not in page.read_text()


def test_json_holds_what_the_board_says(writer, tmp_path):
    writer.card(10)
    writer.column("a", A)
    writer.training("at(steps=7)", "w", seed=4, seconds=12.5)
    writer.cell("w", "clean@1()", range(10), [0, 1])
    writer.cell("w", A, range(2, 10), [2, 3, 4], seed=2, doubts=["odd"])
    publish(writer.ledger, tmp_path)
    board = json.loads((tmp_path / "board.json").read_text())
    assert board["schema"] == "rampart/board-1"
    assert board["commits"] == ["0123456789abcdef0123456789abcdef01234567"]
    assert board["versions"] == {"python": ["3.11.7"], "torch": ["2.11.0"]}
    assert board["machines"] == ["a processor (cpu)"]
    (section,) = board["sections"]
    assert (section["dataset"], section["net"], section["threat"], section["condition"]) == (
        "digits", "cnn", "linf:0.1", "clean",
    )  # fmt: skip
    assert section["columns"][1] == {"name": "a", "of": [A], "strict": True, "first": 0}
    (row,) = section["rows"]
    assert (row["defense"], row["seed"], row["which"], row["parameters"]) == ("at(steps=7)", 4, "best = last", 123_456)
    assert row["training_seconds"] == 12.5
    assert row["numbers"]["a"] == {
        "accuracy": 0.5, "interval": [0.236593, 0.763407], "standing": 5, "n": 10, "conditions": 1, "bound": False,
        "partial": False, "cost": {"forwards": 80, "backwards": 72, "seconds": 1.0}, "attack_seeds": {A: 2},
    }  # fmt: skip
    assert row["summary"]["accuracy"] == 0.5
    assert row["doubts"] == [{"text": "odd", "attacks": ["a"]}]


def test_the_page_says_numbers_intervals_n_and_doubts(writer, tmp_path):
    writer.card(10)
    writer.column("a", A)
    writer.column("b", "b@1()", strict=False)
    writer.training("at", "w")
    writer.cell("w", "clean@1()", range(10), [0, 1])
    writer.cell("w", A, range(2, 5), [4], doubts=["the loss is flat"])
    writer.cell("w", "b@1()", range(10), [9])
    shown = cells(publish(writer.ledger, tmp_path))
    said = " | ".join(shown)
    assert "80.0 49.0–94.3" in said
    assert "40.0 11.8–76.9 partial, n 5" in said
    assert "≤ 70.0 undecided" in said
    assert "b not strict" in said
    assert "the loss is flat a" in said


def test_multiply_adds_stand_beside_parameters_where_they_were_counted(writer, tmp_path):
    """A training that counted them, and one recorded before they were: a dash, and null in the data."""
    writer.card(10)
    writer.column("a", A)
    writer.training("new", "w", macs=555_422_720)
    writer.training("old", "v")
    for weights in "wv":
        writer.cell(weights, "clean@1()", range(10))
        writer.cell(weights, A, range(10), [0])
    page = publish(writer.ledger, tmp_path)
    shown = {
        e.get("data-sort"): "".join(e.itertext())
        for e in tree(page).iter() if isinstance(e.tag, str) and e.get("data-label") == "multiply-adds"
    }  # fmt: skip
    assert shown == {"555422720": "555 M", "": "–"}
    (section,) = json.loads((tmp_path / "board.json").read_text())["sections"]
    assert {r["defense"]: r["multiply_adds"] for r in section["rows"]} == {"new": 555_422_720, "old": None}


@pytest.mark.parametrize("shift", range(len(HOSTILE)))
def test_hostile_names_change_nothing_but_text(writer, tmp_path, shift):
    def build(names, site):
        shutil.rmtree(writer.ledger.root, ignore_errors=True)
        writer.dataset, writer.machine, column, net, doubt, *labels = names
        writer.card(4)
        writer.column(column, A)
        for label, weights in zip(labels, "tuvw", strict=True):
            writer.training(label, weights, net_label=net)
            writer.cell(weights, "clean@1()", range(4))
            writer.cell(weights, A, range(4), [0], doubts=[doubt])
        page = publish(writer.ledger, site)
        json.loads((site / "board.json").read_text())
        return page

    names = HOSTILE[shift:] + HOSTILE[:shift]
    hostile = build(names, tmp_path / "hostile")
    plain = build([f"plain{i}" for i in range(9)], tmp_path / "plain")
    shapes = [[(e.tag, sorted(e.attrib)) for e in tree(page).iter()] for page in (hostile, plain)]
    assert shapes[0] == shapes[1]
    assert not {"\u202e", "\u2066", "\x00", "\x1b"} & set(hostile.read_text())
    shown = "".join(tree(hostile).itertext())
    assert all(printable(name) in shown for name in names)


@pytest.mark.parametrize("trainings", [0, 1])
def test_an_empty_ledger_gives_a_page_that_says_how_to_fill_it(writer, tmp_path, trainings):
    for i in range(trainings):
        writer.training("at", f"w{i}")
    page = publish(writer.ledger, tmp_path / "site")
    text = "".join(tree(page).itertext())
    assert "bench run --defense" in text and "no records" in text
    assert json.loads((tmp_path / "site" / "board.json").read_text())["sections"] == []


def test_a_scale_holds_the_better_half_in_tens(writer):
    writer.column("a", A)
    for weights, fell in {"good": 50, "fair": 60, "none": 100}.items():
        writer.cell(weights, "clean@1()", range(100))
        writer.cell(weights, A, range(100), range(fell))
    (section,) = table(writer.ledger).sections
    scale = Scale.of([r.numbers["a"] for r in section.rows])
    assert (scale.low, scale.high) == (30, 60)
    assert Scale.of([]) == Scale(0, 100, (0.0, 0.0))


def test_publishing_needs_no_torch(demo, tmp_path):
    code = (
        "import sys; from pathlib import Path; from bench import Ledger; from leaderboard.site import publish;"
        f"publish(Ledger(Path({str(demo.root)!r})), Path({str(tmp_path / 'site')!r}));"
        "assert not {'torch', 'pandas', 'scipy', 'rich'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
