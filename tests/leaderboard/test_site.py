"""The published files: the same twice, valid, and unmoved by what names hold."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import html5lib
import pytest

import leaderboard.folder
import leaderboard.site
from bench import IncompleteError
from leaderboard.folder import write_all
from leaderboard.scales import Scale
from leaderboard.shell import File, slug
from leaderboard.site import publish
from leaderboard.table import table
from leaderboard.words import printable

from .conftest import published

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


def elements(page):
    return [e for e in tree(page).iter() if isinstance(e.tag, str)]


def cells(page):
    return ["".join(e.itertext()) for e in tree(page).iter() if e.tag in {"td", "th"}]


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_publishing_twice_gives_the_same_bytes_wherever_the_ledger_lies(demo, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(demo.root, moved)
    publish(demo, tmp_path / "one")
    publish(type(demo)(moved), tmp_path / "two")
    one = everything(tmp_path / "one")
    assert one == everything(tmp_path / "two")
    assert {"index.html", "board.json", "files.json", "static/site.css"} < set(one)
    assert json.loads(one["files.json"])["files"] == sorted(set(one) - {"files.json"})


def test_every_page_is_valid_and_every_link_leads_to_a_file_of_the_site(demo, tmp_path):
    publish(demo, tmp_path)
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) >= 4
    for page in pages:
        found = elements(page)
        ids = [e.get("id") for e in found if e.get("id")]
        assert len(ids) == len(set(ids)), page
        sources = page.name == "method.html"  # it names papers, and a reader may go there
        found = [e for e in found if not (sources and e.tag == "a" and e.get("href", "").startswith("https://"))]
        for address in [e.get(a) for e in found for a in ("src", "href") if e.get(a)]:
            assert not re.match("[a-z]+:|//", address) or address.startswith("data:"), (page, address)
            target, _, anchor = address.partition("#")
            assert not target or (page.parent / target).resolve().is_file(), (page, address)
            assert not anchor or target or anchor in ids, (page, address)
        assert "url(" not in page.read_text() and "@import" not in page.read_text()


def test_the_policy_of_every_page_is_strict_and_nothing_in_it_breaks_it(demo, tmp_path):
    """No style attributes, no handlers, no inline script; the one inline style is allowed by its hash."""
    publish(demo, tmp_path)
    for page in tmp_path.rglob("*.html"):
        found = elements(page)
        (policy,) = (e.get("content") for e in found if e.get("http-equiv") == "Content-Security-Policy")
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
        assert rules["script-src"] == "'self'" and "unsafe" not in policy and "http" not in policy
        assert not [e for e in found if any(a == "style" or a.startswith("on") for a in e.attrib)]
        assert not [e for e in found if e.tag == "script" and (e.text or "").strip()]
        for style in (e.text for e in found if e.tag == "style"):
            digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in rules["style-src"]


def test_what_an_earlier_publish_wrote_goes_and_what_others_put_there_stays(writer, tmp_path):
    site, outside = tmp_path / "site", tmp_path / "outside.txt"
    outside.write_text("mine")
    writer.cell("w", "clean@1()", range(4))
    publish(writer.ledger, site)
    (old,) = (site / "boards").glob("*.html")
    (site / "boards" / "notes.txt").write_text("mine")
    manifest = json.loads((site / "files.json").read_text())
    manifest["files"] += ["../outside.txt", str(outside), "boards/link/outside.txt", "never/was.html", 7]
    (site / "boards" / "link").symlink_to(tmp_path)
    (site / "files.json").write_text(json.dumps(manifest))
    shutil.rmtree(writer.ledger.root)
    publish(writer.ledger, site)
    assert not old.exists() and (site / "boards" / "notes.txt").read_text() == "mine"
    assert outside.read_text() == "mine"
    (site / "files.json").write_text("{")
    publish(writer.ledger, site)
    assert "no records" in (site / "index.html").read_text()


def test_what_cannot_be_written_is_said_and_the_first_page_stays_as_it_was(writer, tmp_path):
    """A file where a folder must be: the error names it, and index.html is not touched."""
    writer.cell("w", "clean@1()", range(4))
    (tmp_path / "boards").write_text("a file")
    (tmp_path / "index.html").write_text("as it was")
    with pytest.raises(IncompleteError, match=r"cannot write .*boards"):
        publish(writer.ledger, tmp_path)
    assert (tmp_path / "index.html").read_text() == "as it was"
    assert not list(tmp_path.rglob("*.part"))


def test_one_board_is_the_first_page_and_lies_in_its_place_too(writer, tmp_path):
    writer.column("a", A)
    writer.cell("w", "clean@1()", range(4))
    writer.cell("w", A, range(4))
    publish(writer.ledger, tmp_path)
    (page,) = (tmp_path / "boards").glob("*.html")
    texts = ["".join(tree(p).itertext()) for p in (page, tmp_path / "index.html")]
    assert texts[0] == texts[1]


def test_two_processes_write_what_one_does(demo, tmp_path, monkeypatch):
    """Also where the second one dies of something that does not befall the first."""
    publish(demo, tmp_path / "one")
    monkeypatch.setattr(leaderboard.site, "MANY", 0)
    monkeypatch.setattr(leaderboard.folder.os, "cpu_count", lambda: 2)
    publish(demo, tmp_path / "two")
    write, parent = leaderboard.folder.write, os.getpid()
    monkeypatch.setattr(leaderboard.folder, "write", lambda *x: write(*x) if os.getpid() == parent else os._exit(9))
    publish(demo, tmp_path / "three")
    assert everything(tmp_path / "one") == everything(tmp_path / "two") == everything(tmp_path / "three")


def test_two_pages_of_one_name_are_an_error(tmp_path):
    def part():
        yield File("a/x.html", b"x")

    with pytest.raises(RuntimeError, match=re.escape("two pages are called a/x.html")):
        write_all(tmp_path, [part, part])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CIFAR-10 Linf 8/255", "cifar-10-linf-8-255-"), ("../../etc/passwd", "etc-passwd-"), ("\u202eéß", "e-"),
        ("", ""), ("x" * 5000, "x" * 48 + "-"), ("CON", "con-"), ("a\x00b", "a-b-"),
    ],
)  # fmt: skip
def test_file_names_are_safe_and_differ_where_keys_do(name, expected):
    assert re.fullmatch(re.escape(expected) + "[0-9a-f]{10}", slug(name, "key"))
    assert slug(name, "key") != slug(name, "other")


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
        "certified": None,
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
    shown = cells(published(writer.ledger, tmp_path))
    said = " | ".join(shown)
    assert "80.0 49.0–94.3" in said
    assert said.count("40.0 11.8–76.9 partial, n 5") == 2  # of the column, and of worst, which is no other
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
    page = published(writer.ledger, tmp_path)
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
        publish(writer.ledger, site)
        json.loads((site / "board.json").read_text())
        return site

    def shape(site):
        """The elements and attributes of each folder's pages; their order goes by their names.

        Not of commands, which names that would steer a terminal have none of, nor of names in drawings, where one
        without room is left out.
        """
        drop, free = {"data-col", "title", "value"}, {"pre", "code", "{http://www.w3.org/2000/svg}text"}
        return sorted(
            (
                str(p.parent.relative_to(site)),
                [(e.tag, sorted(set(e.attrib) - drop)) for e in elements(p) if e.tag not in free],
            )
            for p in site.rglob("*.html")
        )

    names = HOSTILE[shift:] + HOSTILE[:shift]
    hostile = build(names, tmp_path / "hostile")
    plain = build([f"plain{i}" for i in range(9)], tmp_path / "plain")
    assert shape(hostile) == shape(plain)
    for path in hostile.rglob("*"):
        assert re.fullmatch(r"[a-z0-9.-]{1,80}", path.name), path
        if path.suffix == ".html":
            assert not {"\u202e", "\u2066", "\x00", "\x1b"} & set(path.read_text())
    shown = "".join(tree(hostile / "index.html").itertext())
    assert all(printable(name) in shown for name in names)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_keys_of_records_change_nothing_but_text(writer, tmp_path, text):
    """In every field of a record and a training that is free text, with the keys to match."""
    writer.card(4)
    writer.column("a", f"a{text}@1()")
    writer.net = f"net{text}"
    writer.cell("w", f"a{text}@1()", range(4), [1], doubts=[text], condition=f"fog{text}:1")
    writer.cell("w", f"a{text}@1()", range(4), [1], doubts=[text])
    writer.cell("w", f"a{text}@1()", range(4), threat=f"linf:0.1{text}")
    writer.training(text, "w", on=text, history=[{"epoch": 1, "loss": 1.0, "note": text}])
    writer.cell("w", "clean@1()", range(4), [0], commit=text, versions={text: text}, made=text)
    site = publish(writer.ledger, tmp_path / "site")
    assert len(site.board.damaged) == (1 if text else 0)  # what is no threat is no record
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= 3
    for page in pages:
        found = elements(page)
        assert {e.tag for e in found}.isdisjoint({"iframe", "object", "base"})
        assert not [a for e in found for a in e.attrib if a.startswith("on")]
        for source in (e.get("src") for e in found if e.get("src")):
            assert (page.parent / source).resolve().is_file() and source.endswith((".js", ".svg"))


@pytest.mark.parametrize("trainings", [0, 1])
def test_an_empty_ledger_gives_a_page_that_says_how_to_fill_it(writer, tmp_path, trainings):
    for i in range(trainings):
        writer.training("at", f"w{i}")
    page = published(writer.ledger, tmp_path / "site")
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


def test_damaged_and_unknown_files_are_named_on_every_page_and_the_rest_is_shown(writer, tmp_path):
    """A changed byte, another schema, half a file, an empty one, a wrong folder, images out of all proportion."""
    writer.column("a", A)
    writer.cell("w", "clean@1()", range(4))
    writer.cell("w", A, range(4), [1])
    paths = [writer.cell(f"x{i}", "clean@1()", range(4)) for i in range(4)]
    paths[0].write_bytes(paths[0].read_bytes().replace(b"[0,1,2,3]", b"[0,1,2,4]"))
    rest = [paths[1].read_bytes().replace(b"record-1", b"record-9"), paths[2].read_bytes()[:-40], b""]
    for path, content in zip(paths[1:], rest, strict=True):
        path.unlink()
        path.with_name(hashlib.sha256(content).hexdigest() + ".json").write_bytes(content)
    near = writer.cell("y", "clean@1()", [0, 1])
    content = near.read_bytes().replace(b"[0,1]", b"[0,1000000000000]")
    far = near.with_name(hashlib.sha256(content).hexdigest() + ".json")
    near.unlink()
    far.write_bytes(content)
    strayed = writer.cell("z", "clean@1()", range(4))
    (writer.ledger.root / ("0" * 64)).mkdir()
    shutil.copy(strayed, writer.ledger.root / ("0" * 64))
    site = publish(writer.ledger, tmp_path / "site")
    assert len(site.board.damaged) == 6 and not [x for x in site.board.damaged if str(tmp_path) in x]
    assert [far.stem in x for x in site.board.damaged].count(True) == 1
    assert site.board.records == 3
    for page in (tmp_path / "site").rglob("*.html"):
        said = "".join(tree(page).itertext())
        assert "6 files of the ledger could not be read" in said and far.stem[:20] in said


def test_a_missing_sidecar_of_a_minimum_norm_attack_is_named(writer):
    writer.cell("w", "clean@1()", range(4))
    writer.cell("w", "fmn@1()", range(4), threat="linf")
    (said,) = table(writer.ledger).damaged
    assert "is missing" in said


def test_publishing_needs_no_torch(demo, tmp_path):
    code = (
        "import sys; from pathlib import Path; from bench import Ledger; from leaderboard.site import publish;"
        f"publish(Ledger(Path({str(demo.root)!r})), Path({str(tmp_path / 'site')!r}));"
        "assert not {'torch', 'pandas', 'scipy', 'rich'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
