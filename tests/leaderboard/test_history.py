"""How trainings went: what is drawn, against points computed by hand, and logs that hold anything."""

from __future__ import annotations

import json
import math
import re

import html5lib
import pytest

from leaderboard.history import CLASSES, ROWS, SIZE, finite, lessons, plain
from leaderboard.table import table

from .conftest import epochs, published

A = "a@1()"


def trained(writer, history, label="at", seed=0, **more):
    weights = f"{label}/{seed}"
    writer.training(label, weights, seed=seed, history=history, **more)
    writer.cell(weights, "clean@1()", range(4), [0])


def only(writer):
    (lesson,) = lessons(table(writer.ledger))
    (history,) = lesson.histories
    return history


def model(writer, folder):
    """The page of the only model."""
    published(writer.ledger, folder)
    (page,) = (folder / "models").glob("*.html")
    return page


def points(path):
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)]


def test_curves_go_through_the_numbers(writer):
    """Four epochs on a panel of 600 by 100: a third of the width each, and accuracy 1 at the top."""
    robust = [0.0, 0.25, 0.5, 1.0]
    trained(writer, [{"epoch": i + 1, "val_pgd10": r, "loss": 2 - r} for i, r in enumerate(robust)])
    accuracy, loss = only(writer).panels
    assert points(accuracy.lines[0].path) == [(0, 100), (200, 75), (400, 50), (600, 0)]
    assert (loss.low, loss.high) == (0, 2)
    assert points(loss.lines[0].path) == [(0, 0), (200, 12.5), (400, 25), (600, 50)]
    assert (accuracy.said, loss.said) == ("PGD-10: from 0.0 % to 100.0 %", "loss: from 2 to 1")


def test_a_gap_breaks_the_curve(writer):
    losses = [1.0, 2.0, math.nan, 4.0, None, 2.0, 1.0]
    trained(writer, [{"epoch": i, "loss": x} for i, x in enumerate(losses)])
    (panel,) = only(writer).panels
    assert panel.lines[0].path == "M0.0,75.0L100.0,50.0M296.0,0.0h8M500.0,50.0L600.0,75.0"


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([1, 1, 0.1, 0.1, 0.01, 0.01], [3, 5]),
        ([1, 0.1, 0.01], [2, 3]),
        ([0.1] * 6, []),
        ([0.5 * (1 + math.cos(math.pi * i / 20)) for i in range(20)], []),
        ([0.1, 0.3, 0.6, 1.0, 0.7, 0.4, 0.1, 0.01], []),
        ([1, 1, 0.8, 0.8], []),
    ],
    ids=["piecewise", "at-once", "constant", "cosine", "one-cycle", "small"],
)
def test_drops_of_the_learning_rate_are_steps_and_no_smooth_fall(writer, rates, expected):
    trained(writer, [{"epoch": i + 1, "lr": r, "loss": 1.0} for i, r in enumerate(rates)])
    assert only(writer).drops == expected
    assert only(writer).marks.count("M") == len(expected)


def test_the_best_epoch_is_the_one_that_the_log_names_else_that_of_the_highest_robust_accuracy(writer):
    log = [{"epoch": e, "val_pgd10": r, "val_clean": c} for e, r, c in [(1, 0.2, 0.5), (2, 0.4, 0.8), (3, 0.4, 0.8)]]
    trained(writer, log)
    history = only(writer)
    assert (history.best, history.best_is_known) == (1, False)  # the first of equals
    assert points(history.spot) == [(300, 60)]
    trained(writer, [{**log[0], "best": True}, log[1], log[2]], "mart")
    named = next(h for lesson in lessons(table(writer.ledger)) for h in lesson.histories if h.best_is_known)
    assert (named.best, points(named.spot)) == (0, [(0, 80)])


def test_class_weights_are_small_panels_on_one_scale_with_the_mean_over_classes(writer):
    trained(writer, [{"epoch": 1, "weight_by_class": [1, 3]}, {"epoch": 2, "weight_by_class": [2, 4]}])
    first, second = only(writer).classes
    assert (first.low, first.high) == (second.low, second.high) == (0, 4)
    assert [points(line.path) for line in first.lines] == [[(0, 50), (600, 25)], [(0, 75), (600, 50)]]
    assert points(second.lines[1].path) == [(0, 25), (600, 0)]
    assert second.said == "class 1: from 3 to 4"


def test_of_many_classes_the_outermost_are_drawn(writer, tmp_path):
    trained(writer, epochs(5, classes=200))
    history = only(writer)
    names = [panel.name for panel in history.classes]
    assert names == [f"class {k}" for k in (*range(6), *range(194, 200))] and len(names) == CLASSES
    assert history.more_classes == 188
    assert all(len(weights) == CLASSES for _, _, weights in history.table)
    assert "188 more in" in model(writer, tmp_path).read_text()


def test_seeds_of_one_defense_share_their_scales_and_a_place(writer):
    for seed, high in ((0, 2.0), (1, 8.0)):
        trained(writer, [{"epoch": 1, "loss": high}, {"epoch": 2, "loss": 1.0}], seed=seed)
    trained(writer, [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 1.0}], "mart")
    found = lessons(table(writer.ledger))
    assert [(x.training.label, [h.training.seed for h in x.histories]) for x in found] == [
        ("at", [0, 1]),
        ("mart", [0]),
    ]
    assert [[h.panels[0].high for h in x.histories] for x in found] == [[8, 8], [3]]


def test_a_long_training_has_every_kth_epoch_in_its_table_with_the_best_and_the_last(writer):
    trained(writer, epochs(1001))
    history = only(writer)
    shown = [epoch for epoch, _, _ in history.table]
    assert len(shown) <= ROWS + 2 and shown[0] == 1 and shown[-1] == 1001
    assert history.epochs[history.best] in shown


def test_the_page_has_a_figure_a_training_with_its_numbers(writer, tmp_path):
    trained(writer, epochs(30, classes=10, density=0.7, note="<b>collapse</b>"))
    page = model(writer, tmp_path)
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page.read_text())
    (figure,) = (e for e in tree.iter("figure") if e.get("class") == "history")
    drawn = [e for e in figure.iter() if isinstance(e.tag, str) and e.tag.endswith("svg")]
    assert len(drawn) == 3 + 10 and all(e.get("aria-label") or e.get("aria-labelledby") for e in drawn)
    titles = ["".join(e.itertext()) for e in figure.iter() if isinstance(e.tag, str) and e.tag.endswith("title")]
    assert titles == [f"{x} over epochs 1 to 30" for x in ("accuracy, %", "loss", "mask density, %")]
    rows = [["".join(c.itertext()) for c in tr] for tr in figure.iter("tr")]
    assert rows[0][:7] == ["epoch", "loss", "clean, %", "PGD-10, %", "mask density, %", "mean weight", "learning rate"]
    assert len(rows) == 31 and rows[1][:3] == ["1", "2.174", "16.2"]
    said = "".join(figure.itertext())
    assert "The learning rate falls in epochs 20, 26." in said and "epoch 7: <b>collapse</b>" in said


def test_a_training_without_a_history_has_no_figure(writer, tmp_path):
    trained(writer, [])
    page = model(writer, tmp_path).read_text()
    assert 'class="history"' not in page


def test_json_has_the_history_of_the_trainings_behind_the_rows(writer, tmp_path):
    history = epochs(3)
    trained(writer, history, seed=4)
    writer.training("mart", "never examined", history=history)
    published(writer.ledger, tmp_path)
    board = json.loads((tmp_path / "board.json").read_text())
    (training,) = board["trainings"]
    assert (training["defense"], training["seed"], training["history"]) == ("at", 4, history)
    assert training["key"] == board["sections"][0]["rows"][0]["training"]


ODD = [
    [{}],
    [{"epoch": "one", "loss": "low"}, {"epoch": None}],
    [{"epoch": 3, "loss": 1.0}, {"epoch": 3, "loss": 2.0}, {"epoch": 1, "loss": 0.5}],
    [{"epoch": 1, "loss": 10**400, "lr": -1.0, "val_pgd10": 7.0, "val_clean": -3.0}],
    [{"epoch": 1, "loss": 1.7e308, "lr": 0.0}, {"epoch": 2, "loss": -1.7e308, "lr": 0.0}],
    [{"epoch": 1, "weight_by_class": "many"}, {"epoch": 2, "weight_by_class": [1, None, [2], "x", True]}],
    [{"epoch": 1, "weight_by_class": []}, {"epoch": 2, "weight_by_class": [1.0]}, {"epoch": 5}],
    [{"epoch": 10**30, "loss": 1.0}, {"epoch": 10**31, "loss": 1.0, "note": 5, "best": "yes"}],
    [{"epoch": 1, "loss": math.nan, "deep": [{"x": [math.inf]}], "note": "</figure>\x1b[31m\u202e"}],
    [{"epoch": 1.5, "val_pgd10": True, "mask_density": 0.5, "seconds": -1.0}],
]


@pytest.mark.parametrize("place", range(len(ODD)))
def test_a_log_that_holds_anything_gives_a_valid_page_and_valid_json(writer, tmp_path, place):
    trained(writer, ODD[place])
    page = model(writer, tmp_path)
    html5lib.HTMLParser(strict=True).parse(page.read_text())
    text = (tmp_path / "board.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    paths = re.findall(r' d="([^"]*)"', page.read_text())
    assert not [d for d in paths if re.search(r"nan|inf|e[+-]", d)]
    assert not {"\x1b", "\u202e"} & set(page.read_text())
    inside = [y for d in paths for _, y in points(d)]
    assert all(0 <= y <= max(SIZE[1], 240) for y in inside)


def test_numbers_are_told_from_what_is_none():
    assert [finite(x) for x in (1, 0.5, True, "1", None, math.nan, math.inf, 10**400)] == [1, 0.5, *[None] * 6]
    assert plain({"a": (math.nan, True, "x"), 1: [10**400]}) == {"a": [None, True, "x"], "1": [10**400]}


def test_publishing_twice_gives_the_same_bytes(writer, tmp_path):
    for seed in (0, 1):
        trained(writer, epochs(20, classes=3, density=0.5), seed=seed)
    for name in "ab":
        published(writer.ledger, tmp_path / name)
    pages = [sorted(p.read_bytes() for p in (tmp_path / name / "models").glob("*.html")) for name in "ab"]
    assert len(pages[0]) == 2 and pages[0] == pages[1]
