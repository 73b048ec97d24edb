"""What a board says beside its numbers: divisions, ranks in words, the mean over corruptions."""

from __future__ import annotations

import re

import html5lib
import pytest

from leaderboard.boards import _families
from leaderboard.rules import DIVISIONS
from leaderboard.table import table

from .conftest import published, sha

A, EOT = "a@1()", "pgd@1(eot=20, steps=20)"


def examined(writer, weights, fell, attack=A, n=100):
    writer.cell(weights, "clean@1()", range(n))
    writer.cell(weights, attack, range(n), fell)


def text(page):
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page.read_text())
    return " ".join("".join(tree.itertext()).split())


def answer(writer, folder):
    """What the board says first."""
    (said,) = re.findall(r'<p class="answer">(.*?)</p>', published(writer.ledger, folder).read_text(), re.DOTALL)
    return " ".join(re.sub("<[^>]*>|&nbsp;", " ", said).split())


@pytest.mark.parametrize(
    ("defense", "attack", "expected"),
    [
        ("at@2(extra_sha256='', steps=10)", A, "closed"),
        (f"at@2(extra_sha256='{sha('more')}')", A, "extra data"),
        (f"checkpoint@1(sha256='{sha('x')}')", A, "unknown training"),
        ("robustbench@1(model='Carmon2019Unlabeled')", A, "unknown training"),
        (None, A, "unknown training"),
        ("at@2()", EOT, "random"),
        ("at@2()", EOT.replace("20, ", "1, "), "closed"),
    ],
)  # fmt: skip
def test_the_division_follows_from_the_records(writer, tmp_path, defense, attack, expected):
    writer.column("a", attack)
    if defense:
        writer.training("some", "w", defense=defense)
    examined(writer, "w", [1], attack)
    random = expected == "random"
    writer.check("w", figures={"random": 1.0, "stand_in": 0.0} if random else None)
    ((row,),) = (s.rows for s in table(writer.ledger).sections)
    assert row.division == expected and expected in DIVISIONS
    assert expected in text(published(writer.ledger, tmp_path))


def test_the_lead_is_called_real_where_every_other_line_is_significantly_worse(writer, tmp_path):
    writer.column("a", A)
    for name, fell in (("good", 10), ("bad", 60)):
        writer.training(name, name)
        examined(writer, name, range(fell))
    said = answer(writer, tmp_path / "one")
    assert said.startswith("good leads: 90.0 % of the images stand against every attack.") and "is real" in said
    writer.training("near", "near")
    examined(writer, "near", range(12))
    said = answer(writer, tmp_path / "two")
    assert "may be chance: 1 of the 2 others cannot be told apart" in said
    page = text(tmp_path / "two" / "index.html")
    assert "1–2 good" in page and "1–2 near" in page and "3 bad" in page


def test_who_may_yet_pass_the_leader_is_told_with_what_was_not_asked(writer, tmp_path):
    writer.column("a", A)
    for name in ("first", "second"):
        writer.training(name, name)
        examined(writer, name, range(10))
    writer.training("open", "open")
    writer.cell("open", "clean@1()", range(100))
    writer.column("b", "b@1()")
    for name in ("first", "second"):
        writer.cell(name, "b@1()", range(100), range(10, 12))
    writer.cell("open", A, range(100), [0])
    said = answer(writer, tmp_path)
    assert "is first of 2 that are decided: 88.0 %" in said
    assert said.endswith("1 line has no more than an upper bound and may yet pass it: not asked to the end was b .")


def test_the_mean_over_corruptions_stands_beside_clean_accuracy(writer, tmp_path):
    """Of two models one was examined on corrupted images: 100 and 80 of 100, 90 on the mean."""
    writer.column("a", A)
    for name in ("hardened", "other"):
        writer.training(name, name)
        examined(writer, name, [1])
    for severity, fell in ((1, []), (2, range(20))):
        writer.cell("hardened", "clean@1()", range(100), fell, condition=f"fog@1():{severity}")
    folder = published(writer.ledger, tmp_path).parent
    (board,) = folder.glob("boards/*0-1-clean*.html")
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(board.read_text())
    cells = [e for e in tree.iter("td") if e.get("data-label") == "mean corruption"]
    assert sorted(e.get("data-sort") for e in cells) == ["", "0.9"]
    assert "not strict" not in text(board)


def test_nets_of_a_family_can_be_chosen_together():
    nets = ["wrn-28-10", "wrn-34-10", "resnet18", "preactresnet18", "resnet50", "cnn", "timm('vit')", "<b>1", "<b>2"]
    assert _families(nets) == ["resnet", "wrn"]


def test_without_a_decided_line_nobody_leads(writer, tmp_path):
    writer.column("both", A, "b@1()")
    writer.cell("w", "clean@1()", range(100))
    writer.cell("w", A, range(100), range(10))
    page = text(published(writer.ledger, tmp_path))
    assert "leads" not in page and "undecided" in page
