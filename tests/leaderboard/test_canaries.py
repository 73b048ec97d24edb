"""The method page says how well the checks notice, from figures that were measured, or that nobody measured."""

from __future__ import annotations

import json

import pytest

from bench import REASONS, IntegrityError
from leaderboard import canaries
from leaderboard.method import pages
from leaderboard.site import build

from .test_boards import text

BROKEN = {"name": "scaled", "summary": "logits times 10,000", "expected": "underflow", "found": ["underflow"],
          "said": 1.0, "probed": 0.7, "stands": 0.68}  # fmt: skip
HONEST = {"name": "at", "summary": "adversarially trained", "expected": "", "found": []}


def page(writer, tmp_path):
    (file,) = pages(build(writer.ledger))
    path = tmp_path / "method.html"
    path.write_bytes(file.content)
    return text(path)


def measured(monkeypatch, tmp_path, **documents):
    for name in ("CANARIES", "ALARMS"):
        path = tmp_path / f"{name}.json"
        if name in documents:
            path.write_text(json.dumps(documents[name]))
        read = {"CANARIES": "canaries", "ALARMS": "alarms"}[name]
        function = getattr(canaries, read)
        monkeypatch.setattr(canaries, read, lambda path=path, function=function: function(path))


def test_rates_are_those_of_the_file(writer, monkeypatch, tmp_path):
    """One of two broken models is caught; one of two honest ones is doubted; 3 of 24 honest models raise a doubt."""
    missed = BROKEN | {"name": "sly", "found": []}
    doubted = HONEST | {"name": "trades", "found": ["rough"]}
    measured(
        monkeypatch, tmp_path,
        CANARIES={"schema": "rampart/canaries-1", "canaries": [BROKEN, missed, HONEST, doubted]},
        ALARMS={
            "models": 24, "about": "trained honestly: 14 on digits, 10 on MNIST",
            "rates": [{"code": "flat", "raised": 0, "models": 24}, {"code": "rough", "raised": 3, "models": 24}],
        },
    )  # fmt: skip
    said = page(writer, tmp_path)
    assert "logits times 10,000100.070.068.0underflow" in said
    assert "1 of 2 models that are broken on purpose are caught by the doubt that should, and 1 of 2 honest" in said
    assert "Of 24 models, trained honestly: 14 on digits, 10 on MNIST, so many" in said
    assert said.index(REASONS["rough"].text) < said.index(REASONS["flat"].text)  # the most frequent first
    assert f"{REASONS['rough'].text}3 of 2412.54.3–31.0" in said  # Wilson's interval of 3 of 24
    assert f"{REASONS['flat'].text}0 of 240.00.0–13.8" in said


def test_without_figures_the_page_says_that_nobody_measured(writer, monkeypatch, tmp_path):
    measured(monkeypatch, tmp_path)
    said = page(writer, tmp_path)
    assert "the checks catch was not measured for this version" in said
    assert "How often honest models raise a doubt was not measured" in said


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "c.json").write_text('{"canaries": 3}')
    with pytest.raises(IntegrityError, match=r"c\.json: not what make canaries writes"):
        canaries.canaries(tmp_path / "c.json")
