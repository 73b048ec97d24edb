"""Boards in every format: the numbers recounted from the records, and names that stay text whatever they hold."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pandas as pd
import pytest

from bench import ColumnCard, Record
from leaderboard import formats
from leaderboard.badges import badge
from leaderboard.machines import pages
from leaderboard.offers import identity, ways
from leaderboard.published import papers
from leaderboard.seeds import Group
from leaderboard.site import build
from leaderboard.table import table
from leaderboard.words import printable
from tests.leaderboard.reading import latex_table, latex_text, markdown_table, valid
from tests.leaderboard.test_parity import Table

A = "a@1()"
HOSTILE = [
    "<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</style></title></table><h1>",
    "&lt;b&gt; {{ 7 * 7 }} {% raw %}", "\u202eevil\u2066\u200f", "nul \x00 bell \x07 escape \x1b[31m", "]]>--><!--",
    "../../etc/passwd|`id`|www.evil.example https://evil.example @all", "x" * 5000, "",
]  # fmt: skip
FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2",
    "@SUM(A1)",
    "*star",
    "[opt]",
    "a--b---c",
    "$x_1^2$ #5 ~ 100 %",
    "名前 é ü",
]


@pytest.fixture(scope="module")
def site(demo):
    return build(demo)


def recount(ledger, section, row):
    """Standing and n of each column of a row, from the records alone: fallen in clean or in any of its attacks."""
    documents = list(ledger.all())
    cards = {c.name: c for c in documents if isinstance(c, ColumnCard)}
    mine = [d for d in documents if isinstance(d, Record) and (d.net, d.weights) == (row.net_key, row.weights)]
    mine = [r for r in mine if r.threat in (None, section.threat)]
    if section.threat is None:
        return {}
    fell = {}
    for r in (r for r in mine if r.condition == section.condition):
        fell.setdefault(r.attack, set()).update(r.fell)
    n = max(len(r.asked) for r in mine if r.condition == section.condition and r.attack == "clean@1()")
    lost = fell.get("clean@1()", set())
    found, union = {"clean": n - len(lost)}, set(lost)
    for name, card in cards.items():
        if name in row.numbers and name != "clean":
            down = set().union(*(fell.get(a, set()) for a in card.attacks))
            found[name] = n - len(down | lost if card.strict else down)
            union |= down if card.strict else set()
    return {name: (standing, n) for name, standing in {**found, "worst": n - len(union)}.items()}


def decided(section):
    """The rows of a section whose every number is one."""
    return [
        r for r in section.rows if not any(x.bound for x in r.numbers.values()) and r.summary and not r.summary.bound
    ]


def test_csv_comes_through_pandas_with_the_numbers_of_a_recount(demo, site):
    checked = 0
    for section in site.board.sections:
        frame = pd.read_csv(io.StringIO(formats.as_csv(section)), keep_default_na=False, na_values=[""])
        assert len(frame) == len(section.rows) and frame.columns.is_unique
        again = frame.to_csv(index=False, lineterminator="\r\n")
        pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(again), keep_default_na=False, na_values=[""]), frame)
        for line, row in zip(frame.to_dict("records"), section.rows, strict=True):
            assert line["weights"] == row.weights
            for name, (standing, n) in recount(demo, section, row).items():
                if row in decided(section):
                    assert (line[f"standing:{name}"], line[f"n:{name}"]) == (standing, n)
                    assert line[f"accuracy:{name}"] == standing / n
                    assert line[f"low:{name}"] < standing / n < line[f"high:{name}"] or standing in (0, n)
                    checked += 1
    assert checked > 80


def test_markdown_and_latex_show_the_same_lines_with_the_numbers_of_a_recount(demo, site):
    checked = 0
    for section in site.board.sections:
        head, rows = markdown_table(formats.as_markdown(section))
        caption, (latex_head, *latex_rows) = latex_table(formats.as_latex(section))
        assert head == latex_head and rows == latex_rows
        assert caption.startswith(", ".join(section.heading))
        for cells, line in zip(rows, section.lines, strict=True):
            assert cells[:2] == [line.maker.defense, line.net]
            members = line.rows if isinstance(line, Group) else (line,)
            counted = [recount(demo, section, row) for row in members if row in decided(section)]
            for name in counted[0] if len(counted) == len(members) else ():
                mean = sum(c[name][0] / c[name][1] for c in counted) / len(counted)
                assert cells[head.index(name)].startswith(f"{100 * mean:.1f} ")
                checked += 1
    assert checked > 60


def test_a_badge_says_the_number_that_sums_up_and_fits_its_halves(demo, site):
    section = next(s for s in site.board.sections if s.summary == "worst")
    for row in decided(section):
        standing, n = recount(demo, section, row)["worst"]
        svg = ET.fromstring(badge(section, row))
        left, right = [e for e in svg.iter() if e.tag.endswith("text")]
        assert right.text == f"{100 * standing / n:.1f} % of {n:,}"
        assert left.text == f"{section.dataset} {section.threat} worst"
        width = int(svg.get("width"))
        ends = [int(e.get("x")) + int(e.get("textLength")) for e in (left, right)]
        assert ends[0] + 6 < int(right.get("x")) and ends[1] == width - 6
        assert svg.get("aria-label") == f"{left.text}: {right.text}"


def test_every_json_is_what_its_schema_says_and_the_results_are_those_of_a_recount(demo, site):
    files = {f.path: f.content for f in pages(site)}
    index = json.loads(files["api/v1/index.json"])
    schemas = {name: json.loads(files[path]) for name, path in index["schemas"].items()}
    kinds = {"api": "index", **{f"api-{name}": name for name in schemas}}
    seen = set()
    for path, content in files.items():
        if path.startswith("api/v1/") and not path.endswith(".schema.json"):
            document = json.loads(content)
            kind = kinds[document["schema"].removeprefix("rampart/").rpartition("-")[0]]
            valid(document, schemas[kind])
            seen.add(kind)
    assert seen == set(schemas)
    for path in [*index["documents"].values(), *index["parity"].values()]:
        assert path in files
    boards = json.loads(files["api/v1/boards.json"])["boards"]
    assert [b["id"] for b in boards] == [identity(site, s) for s in site.board.sections]
    for entry, section in zip(boards, site.board.sections, strict=True):
        assert {entry[k] for k in ("json", "csv", "markdown", "latex", "bibtex")} <= set(files)
        document = json.loads(files[entry["json"]])
        for said, row in zip(document["rows"], section.rows, strict=True):
            assert said["badge"] in files and said["model"] in files
            model = json.loads(files[said["model"]])
            assert (model["net_key"], model["weights"]) == (row.net_key, row.weights)
            assert (said["division"], said["tier"]) == (row.division, "measured")
            on_this = [b for b in model["boards"] if b["board"] == entry["id"]]
            assert [b["results"] for b in on_this] == [said["results"]]
            if row in decided(section):
                for name, (standing, n) in recount(demo, section, row).items():
                    result = said["summary"] if name == "worst" else said["results"][name]
                    assert (result["standing"], result["n"], result["accuracy"]) == (standing, n, standing / n)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("id"), lambda d: d.update(more=1), lambda d: d["rows"][0].update(seed="0"),
        lambda d: d["rows"][0]["summary"].update(accuracy=1.5), lambda d: d.update(schema="rampart/api-board-2"),
        lambda d: d["rows"][0]["doubts"].append("text"), lambda d: d["columns"][0].update(strict=1),
    ],
)  # fmt: skip
def test_the_schema_refuses_what_is_no_board(site, change):
    files = {f.path: f.content for f in pages(site)}
    schema = json.loads(files["api/v1/schema/board.schema.json"])
    document = json.loads(files[ways(site, site.board.sections[0])["json"]])
    valid(document, schema)
    change(document)
    with pytest.raises(AssertionError):
        valid(document, schema)


def test_attacks_are_counted_over_all_records(demo, site):
    records = [d for d in demo.all() if isinstance(d, Record)]
    files = {f.path: f.content for f in pages(site)}
    for entry in json.loads(files["api/v1/attacks.json"])["attacks"]:
        mine = [r for r in records if r.attack == entry["attack"]]
        assert entry["records"] == len(mine)
        assert entry["images"] == sum(len(r.asked) for r in mine) and entry["fell"] == sum(len(r.fell) for r in mine)
        assert entry["models"] == len({r.weights for r in mine})
        assert entry["cost"]["backwards"] == sum(r.cost.backwards for r in mine)


def hostile(writer, names):
    """A board all of whose names are given."""
    writer.dataset, writer.machine, column, net, doubt, *labels = names
    writer.card(4)
    writer.column(column, A)
    for label, weights in zip(labels, "tuvwxyz", strict=False):
        writer.training(label, weights, net_label=net)
        writer.cell(weights, "clean@1()", range(4))
        writer.cell(weights, A, range(4), [0], doubts=[doubt])
    return build(writer.ledger)


@pytest.mark.parametrize("shift", range(0, len(HOSTILE + FORMULAS), 2))
def test_hostile_names_are_text_in_every_format(writer, tmp_path, shift):
    names = (HOSTILE + FORMULAS)[shift:] + (HOSTILE + FORMULAS)[:shift]
    site = hostile(writer, names)
    (section,) = site.board.sections
    shown = {printable(row.maker.defense) for row in section.rows}
    frame = pd.read_csv(io.StringIO(formats.as_csv(section)), keep_default_na=False)
    assert set(frame["defense"]) == {f"'{s}" if s[:1] in "=+-@" and s else s for s in shown}
    text = [str(v) for v in [*frame.columns, *frame.to_numpy().ravel()]]
    assert not [v for v in text if v[:1] in set("=+-@\t\r\n") and not re.fullmatch(r"-?[0-9.e-]+", v)]
    _, rows = markdown_table(formats.as_markdown(section))
    assert {row[0] for row in rows} == shown and len(rows) == len(section.lines)
    assert not re.search(r"(?<!\\)[<>`]", formats.as_markdown(section))
    _, (_, *cells) = latex_table(formats.as_latex(section))
    for said, row in zip(cells, rows, strict=True):
        plain = row[0] if len(row[0]) <= 120 else row[0][:119] + "…"
        known = "".join(c if c.isascii() or "À" <= c <= "ÿ" or c == "…" else f"(U+{ord(c):04X})" for c in plain)
        assert said[0] == known.replace("(U+FFFD)", "?") and len(said) == len(row)
    for row in section.rows:
        svg = ET.fromstring(badge(section, row))
        assert {e.tag.rpartition("}")[2] for e in svg.iter()} == {"svg", "title", "path", "g", "text"}
    for file in pages(site):
        assert re.fullmatch(r"[A-Za-z0-9_./-]+", file.path) and ".." not in file.path
        if file.path.endswith((".svg", ".atom")):
            ET.fromstring(file.content)
        if file.path.endswith(".json"):
            json.loads(file.content)
        if file.path.endswith(".bib"):
            bibliography(file.content.decode())
        assert not {"\u202e", "\u2066", "\x00", "\x1b"} & set(file.content.decode()) or file.path.endswith(".json")


def bibliography(source):
    """The entries of a BibTeX file, their fields as text; an error where it is none."""
    found = {}
    for kind, key, body in re.findall(r"@(\w+)\{([^,\s]+),\n((?:  .*\n)*)\}\n", source):
        fields = re.findall(r"  (\w+) +=? *= \{(.*)\},\n|  (\w+) += \{(.*)\},\n", body)
        assert len(fields) == body.count("\n")
        found[key] = {a or c: latex_text(b or d) for a, b, c, d in fields} | {"kind": kind}
    assert re.sub(r"@(\w+)\{([^,\s]+),\n((?:  .*\n)*)\}\n", "", source).strip() == ""
    return found


def test_bibtex_dates_the_board_and_cites_the_papers_that_it_stands_beside(tmp_path, writer):
    made = Table(writer.ledger)
    made.card(10)
    made.column("pgd", "pgd@1()")
    made.answer(0, 2, 5)
    site = build(writer.ledger)
    (section,) = site.board.sections
    (content,) = (f.content.decode() for f in pages(site) if f.path.endswith(".bib"))
    found = bibliography(content)
    board, paper = found[f"rampart-{identity(site, section)}"], found["vir"]
    assert (board["year"], board["month"], board["kind"]) == ("2026", "jan", "misc")
    assert "commit 0123456789ab" in board["note"] and "1 rows from 2 records" in board["note"]
    assert paper["eprint"] == "2307.07167" == next(p.arxiv for p in papers() if p.name == "vir")


def test_two_columns_of_one_look_keep_their_own_numbers(writer):
    """Names that differ only in what cannot be shown; and a name that another format's suffix would make."""
    writer.card(4)
    for name, attack in (("a\x00", A), ("a\x07", "b@1()"), ("low:clean", "c@1()")):
        writer.column(name, attack)
    writer.training("at", "w")
    writer.cell("w", "clean@1()", range(4))
    for attack, fell in ((A, [0]), ("b@1()", [0, 1]), ("c@1()", [0, 1, 2])):
        writer.cell("w", attack, range(4), fell)
    (section,) = table(writer.ledger).sections
    frame = pd.read_csv(io.StringIO(formats.as_csv(section)))
    assert frame.columns.is_unique
    values = [frame[c][0] for c in frame.columns if c.startswith("standing:")]
    assert sorted(values) == [1, 1, 2, 3, 4]


def test_two_processes_that_read_the_ledger_make_the_same_bytes(demo, tmp_path):
    """Not even the hashes of Python's strings, which differ between them, have a say."""
    code = (
        "import hashlib, sys; from pathlib import Path; from bench import Ledger; from leaderboard.site import *;"
        "[print(f.path, hashlib.sha256(f.content).hexdigest()) for f in files(build(Ledger(Path(sys.argv[1]))))]"
    )
    one, two = (
        subprocess.run([sys.executable, "-c", code, str(demo.root)], check=True, capture_output=True,
                       env=os.environ | {"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    )  # fmt: skip
    assert one == two and one.count(b"\n") > 100


def test_ranks_and_ties_are_those_of_the_page(site):
    """A line that the page puts first has rank 1 or is tied with it; a seed of a group has none of its own."""
    files = {f.path: f.content for f in pages(site)}
    for _, section, lines in site.views:
        document = json.loads(files[ways(site, section)["json"]])
        said = {(r["weights"], r["which"], r["seed"]): r["rank"] for r in document["rows"]}
        groups = {(tuple(g["weights"]), g["which"]): g["rank"] for g in document["groups"]}
        for line in lines:
            rank = list(line.rank) if line.rank else None
            if line.rows:
                assert groups[tuple(r.weights for r in line.rows), line.line.which] == rank
            else:
                made = line.line.maker
                assert said[line.line.weights, made.which or None, made.seed] == rank


def test_the_files_begin_with_ranks_and_their_columns_are_as_many(site):
    files = {f.path: f.content.decode() for f in pages(site)}
    for _, section, lines in site.views:
        head, rows = markdown_table(files[ways(site, section)["md"]])
        _, (latex_head, *latex_rows) = latex_table(files[ways(site, section)["tex"]])
        assert head[0] == latex_head[0] == "rank" and head[1:] == ["defense", "net", "weights", "seed", *head[5:]]
        assert [row[0] for row in rows] == [line.place for line in lines] == [row[0] for row in latex_rows]
