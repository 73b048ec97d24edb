"""The pages about one thing: all are there, all links lead somewhere, and names are text whatever they hold."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import html5lib
import pytest

from bench import DatasetCard, Ledger
from leaderboard.rows import CLEAN
from leaderboard.site import build, files

from .conftest import Writer, cascade, epochs, sha

NS = "{http://www.w3.org/1999/xhtml}"
HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'; drop --", "\u202egnp.exe", "a" * 10_000,
    "../../etc/passwd", "%2e%2e/x", "{{ 7 * 7 }}", "]]>", "&lt;b&gt;",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(demo):
    """The site of the demonstration ledger: what it was made from, and its files by path."""
    site = build(demo)
    return site, {file.path: file.content for file in files(site)}


def parsed(content):
    """A page as a tree; a mistake in its HTML is an error."""
    return html5lib.HTMLParser(strict=True).parse(content.decode())


def elements(tree, name):
    return tree.iter(f"{NS}{name}")


def text_of(element):
    return " ".join("".join(element.itertext()).split())


def pages_of(found):
    return {path: content for path, content in found.items() if path.endswith(".html")}


def test_every_model_attack_and_data_set_has_a_page(whole):
    """Each row of each board leads to a page, and so does each attack that has a record, and each test part."""
    site, found = whole
    for section in site.board.sections:
        for row in section.rows:
            assert site.path("model", row.net_key, row.weights) in found
        assert site.path("data", section.test) in found
    for key in {r.attack for r in site.documents.records if not r.attack.startswith(CLEAN)}:
        assert site.path("attack", key) in found


def test_every_link_leads_somewhere(whole):
    """Over the whole site: the file is there, and so is the place in it; what leads away is a source of the text."""
    _, found = whole
    trees = {path: parsed(content) for path, content in pages_of(found).items()}
    anchors = {path: {e.get("id") for e in tree.iter() if e.get("id")} for path, tree in trees.items()}
    links = 0
    for path, tree in trees.items():
        for name, attribute in (("a", "href"), ("link", "href"), ("script", "src"), ("img", "src")):
            for element in elements(tree, name):
                url = urlsplit(element.get(attribute) or "")
                if url.scheme:
                    assert name == "a" and url.scheme == "https"
                    continue
                target = path if not url.path else joined(path, unquote(url.path))
                assert target in found, f"{path}: {element.get(attribute)}"
                if url.fragment and "=" not in url.fragment:
                    assert url.fragment in anchors[target], f"{path}: {element.get(attribute)}"
                links += 1
    assert links > 500


def joined(page, link):
    """The path of a link from a page."""
    parts = list(PurePosixPath(page).parts[:-1])
    for part in PurePosixPath(link).parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def test_ids_are_unique_and_named_elements_are_there(whole):
    """What a reader hears is named by what is on the page."""
    _, found = whole
    for path, content in pages_of(found).items():
        tree = parsed(content)
        ids = [e.get("id") for e in tree.iter() if e.get("id")]
        assert len(ids) == len(set(ids)), path
        for e in tree.iter():
            for name in ("aria-labelledby", "aria-describedby"):
                assert set((e.get(name) or "").split()) <= set(ids), (path, e.get(name))


def test_pages_obey_the_policy(whole):
    """No style attribute, no handler, no inline script."""
    _, found = whole
    for path, content in pages_of(found).items():
        for e in parsed(content).iter():
            assert not any(name == "style" or name.startswith("on") for name in e.attrib), path
            assert e.tag != f"{NS}script" or (e.get("src") and not e.text)


def test_the_numbers_of_a_model_are_its_boards(whole):
    """Share, interval and images of every column, as the board has them."""
    site, found = whole
    (section, row) = next((s, r) for s in site.board.sections for r in s.rows if r.maker.defense == "part-trades")
    tree = parsed(found[site.path("model", row.net_key, row.weights)])
    table = next(e for e in elements(tree, "table") if "numbers" in (e.get("class") or ""))
    told = {
        text_of(tr[0]): [text_of(td) for td in tr[1:]] for tr in elements(table, "tr") if tr[0].get("scope") == "row"
    }
    assert set(told) == {h.name for h in section.heads if h.name in row.numbers} | {"worst"}
    for name, x in {**row.numbers, "worst": row.summary}.items():
        share, interval, _, images = told[name][:4]
        low, high = x.interval
        assert share == f"{'≤ ' if x.bound else ''}{100 * x.accuracy:.1f}"
        assert interval == ("undecided" if x.bound else f"{100 * low:.1f}–{100 * high:.1f}")
        assert images == f"{x.standing:,} of {x.n:,}"


def test_fallen_images_beside_a_comparison_are_the_records(whole):
    """Each model's bits under each column count what the board counts."""
    import base64

    site, found = whole
    section = site.board.sections[0]
    path = site.path("compare", section.test, section.threat or "", section.condition).removesuffix(".html") + ".js"
    data = json.loads(found[path].decode().removeprefix("globalThis.compared = ").rstrip(";\n"))
    rows = {row.weights[:12]: row for row in section.rows}
    assert {m["id"] for m in data["models"]} == set(rows) and data["left_out"] == 0
    for model in data["models"]:
        numbers = {**rows[model["id"]].numbers, "worst": rows[model["id"]].summary}
        for column, (n, bound, packed) in model["columns"].items():
            fell = int.from_bytes(base64.b64decode(packed), "little").bit_count()
            assert (n, bound, n - fell) == (numbers[column].n, numbers[column].bound, numbers[column].standing)


def test_an_attack_page_says_whom_it_lowers(whole):
    """A row a model with what was asked and what fell, as a sum over records says."""
    site, found = whole
    key = "fgsm@1()"
    tree = parsed(found[site.path("attack", key)])
    rows = [[text_of(cell) for cell in tr] for tr in elements(tree, "tr") if tr[0].get("scope") == "row"]
    records = [r for r in site.documents.records if r.attack == key]
    assert sum(int(r[2].replace(",", "")) for r in rows) == sum(len(r.asked) for r in records)
    assert sum(int(r[3].replace(",", "")) for r in rows) == sum(len(r.fell) for r in records)
    shares = [float(r[4]) for r in rows[: len(site.board.sections[0].rows)]]
    assert shares[0] == max(shares)


def test_typical_pages_are_small(whole):
    """A model's page is no more than a photograph's thumbnail."""
    _, found = whole
    sizes = sorted(len(c) for path, c in found.items() if path.startswith("models/"))
    assert sizes[len(sizes) // 2] < 60_000


def test_an_empty_ledger_has_its_pages_too(tmp_path):
    """Lists that say that nothing is there, and no dead link."""
    found = {f.path: f.content for f in files(build(Ledger(tmp_path)))}
    for path in ("attacks.html", "data.html", "compare.html", "plots.html", "method.html", "optimality.html"):
        assert "<h1" in found[path].decode()
        parsed(found[path])


@pytest.mark.parametrize("name", HOSTILE, ids=[ascii(h)[:20] for h in HOSTILE])
def test_hostile_names_change_nothing_but_text(tmp_path, name):
    """In every field of a record that a person may fill; the same elements as with plain names."""

    def pages(folder, said):
        import random

        writer = Writer(Ledger(tmp_path / folder), dataset=said, machine=said)
        writer.card(200)
        writer.column(said, "fgsm@1()")
        writer.column("pgd-20", "pgd@1(keep='last', step=0.25, steps=20)")
        rng = random.Random(0)
        for model in ("a", "b"):
            history = epochs(3, drops=(), note=said, classes=2)
            writer.training(said, model, seed=ord(model), net_label=said, history=history, commit=said,
                            versions={said: said}, defense=f"{said} {model}")  # fmt: skip
            cascade(writer, model, rng, 0.9, 0.5, n=100, columns=("fgsm", "pgd-20"), doubts=[said])
            for severity in (1, 2):
                writer.cell(model, "clean@1()", range(100), [1], condition=f"{said}@1():{severity}")
        return pages_of({f.path: f.content for f in files(build(writer.ledger))})

    plain, hostile = pages("plain", "plain"), pages("hostile", name)
    assert len(plain) == len(hostile)

    def shape(content):
        return [e.tag.removeprefix(NS) for e in parsed(content).iter() if isinstance(e.tag, str)]

    def sorted_shapes(found, folder):
        return sorted(shape(c) for path, c in found.items() if path.startswith(folder))

    for folder in ("models/", "attacks", "data", "compare", "plots"):
        for a, b in zip(sorted_shapes(plain, folder), sorted_shapes(hostile, folder), strict=True):
            assert set(b) <= set(a), folder
    for path, content in hostile.items():
        assert re.fullmatch(r"[a-z0-9./-]+", path)
        for e in parsed(content).iter():
            for value in e.attrib.values():
                assert not value.lower().startswith(("javascript:", "data:"))
        assert "\u202e" not in content.decode()


def test_weights_of_two_trainings_are_one_page(tmp_path):
    """The same weights, twice made: one page, which tells of both."""
    writer = Writer(Ledger(tmp_path / "ledger"))
    writer.column("fgsm", "fgsm@1()")
    writer.training("at", "w", seed=0)
    writer.training("at", "w", seed=1)
    writer.cell("w", "clean@1()", range(50), [3])
    writer.cell("w", "fgsm@1()", range(4, 50), [5, 6])
    site = build(writer.ledger)
    found = {f.path: f.content.decode() for f in files(site)}
    (page,) = (content for path, content in found.items() if path.startswith("models/"))
    assert "Training 1" in page and "Training 2" in page
    assert sha("w") in page


def no_card(writer):
    writer.cell("w", "clean@1()", range(10), [1])
    writer.cell("w", "a@1()", range(2, 10), [3])


def no_clean(writer):
    writer.card(20)
    writer.cell("w", "a@1()", range(10), [3])


def a_card_of_too_few(writer):
    writer.card(5)
    no_card(writer)


def no_class_at_all(writer):
    facts = {"name": "x", "classes": [], "channels": 3, "size": 8, "labels": []}
    writer.ledger.add(DatasetCard(key=sha(writer.dataset), **facts))
    no_card(writer)


def a_thousand_classes(writer):
    facts = {"name": "x", "classes": [f"c{i}" for i in range(1000)], "channels": 3, "size": 8}
    writer.ledger.add(DatasetCard(key=sha(writer.dataset), labels=[i % 1000 for i in range(2000)], **facts))
    writer.training("at", "w", seconds=0.0)
    writer.cell("w", "clean@1()", range(1500), range(100))
    writer.cell("w", "a@1()", range(100, 1500), range(200, 900))


def conditions_that_are_none(writer):
    writer.card(20)
    for condition in ("fog@1():x", "fog@1():", ":3", "fog", "official/fog"):
        writer.cell("w", "clean@1()", range(10), [3], condition=condition)
    writer.cell("w", "a@1()", range(10), [3], condition="fog")


def nothing_stands(writer):
    writer.card(10)
    for weights, lost in (("w", range(10)), ("v", ())):
        writer.training(weights, weights, seconds=0.0)
        writer.cell(weights, "clean@1()", range(10), lost)
    writer.cell("v", "a@1()", range(10), range(10))


@pytest.mark.parametrize(
    "fill",
    [
        no_card,
        no_clean,
        a_card_of_too_few,
        no_class_at_all,
        a_thousand_classes,
        conditions_that_are_none,
        nothing_stands,
    ],
)
def test_odd_ledgers_have_valid_pages(tmp_path, fill):
    """What a ledger lacks, or has too much of, is left out; every page is valid and small."""
    writer = Writer(Ledger(tmp_path / "ledger"))
    writer.column("a", "a@1()")
    fill(writer)
    found = pages_of({f.path: f.content for f in files(build(writer.ledger))})
    assert any(path.startswith("models/") for path in found)
    for path, content in found.items():
        parsed(content)
        assert len(content) < 60_000 or path.startswith("data/"), path


def test_an_attack_links_the_paper_that_its_records_name(writer):
    """A name that is no number of arXiv's is text, whatever it holds."""
    writer.column("a", "pgd@1()")
    writer.training("at", "w")
    writer.cell("w", "clean@1()", range(10))
    writer.cell("w", "pgd@1()", range(5), paper="arXiv:1706.06083")
    writer.cell("w", "pgd@1()", range(5, 10), paper="javascript:alert(1)")
    (page,) = (f.content.decode() for f in files(build(writer.ledger)) if f.path.startswith("attacks/pgd"))
    assert re.findall(r'<a href="(https[^"]*)"><bdi>(.*?)</bdi>', page) == [
        ("https://arxiv.org/abs/1706.06083", "arXiv:1706.06083")
    ]
    assert "<bdi>javascript:alert(1)</bdi>" in page and 'href="javascript' not in page
