"""Several seeds: their mean and deviation, checked with numpy, and which rows belong together."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from rich.console import Console

from bench import wilson
from leaderboard.arithmetic import Number, Spent
from leaderboard.curves import Curve, figures
from leaderboard.rows import CLEAN, Head, Maker, Row, Section
from leaderboard.seeds import Group, Spread, lines
from leaderboard.table import table
from leaderboard.terminal import text

from .conftest import Writer, published

A, B = "a@1()", "b@1()"
FELL = {0: [2, 3, 4], 1: [2], 2: [2, 3]}  # by seed, besides 0 and 1, which clean loses: 5, 7 and 6 of 10 stand


def trained(writer, seed, label="at", fell=None, *, weights=None, **more):
    """A training whose best weights are examined on ten images."""
    weights = weights or f"{label}/{seed}"
    writer.training(label, weights, f"{weights}/last", seed=seed, **more)
    examined(writer, weights, FELL[seed] if fell is None else fell)


def examined(writer, weights, fell):
    writer.cell(weights, "clean@1()", range(10), [0, 1])
    writer.cell(weights, A, range(2, 10), fell)


@pytest.fixture
def three(writer):
    """Three seeds of at."""
    writer.card(10)
    writer.column("a", A)
    for seed in FELL:
        trained(writer, seed)
    return writer


def board(writer):
    (section,) = table(writer.ledger).sections
    return section.lines


def told(spread):
    return tuple(map(float, spread.values))


def shown(writer, width=100):
    console = Console(width=width)
    with console.capture() as captured:
        console.print(text(table(writer.ledger)))
    return captured.get()


def test_the_mean_and_the_sample_deviation_are_those_of_numpy(three):
    (line,) = board(three)
    spread, values = line.numbers["a"], np.array([0.5, 0.7, 0.6])
    assert spread.seeds == 3 and told(spread) == (0.5, 0.7, 0.6)
    assert spread.accuracy == pytest.approx(values.mean(), abs=1e-15)
    assert spread.sd == pytest.approx(values.std(ddof=1), abs=1e-15)
    assert (line.numbers[CLEAN].accuracy, line.numbers[CLEAN].sd) == (0.8, 0.0)
    assert line.summary == spread


def test_the_mean_does_not_depend_on_the_order_of_the_seeds():
    values = (0.1, 0.7, 0.123456789, 1 / 3, 0.9999)
    found = {(s.accuracy, s.sd) for p in itertools.permutations(values) if (s := Spread(p, 5, 10, 10))}
    assert len(found) == 1


def test_a_mean_equals_the_accuracy_that_it_is():
    """In floats, the mean of 0.7 and 0.6 is less than 0.65, and such a line would come after its equal."""
    mean = Spread((Number(70, 100, False, Spent()).share, Number(60, 100, False, Spent()).share), 2, 100, 100)
    assert (0.7 + 0.6) / 2 < mean.accuracy == Number(65, 100, False, Spent()).accuracy


def test_one_seed_has_no_deviation_and_is_a_row_with_its_interval(writer):
    writer.column("a", A)
    trained(writer, 0)
    (line,) = board(writer)
    assert isinstance(line, Row) and line.numbers["a"].interval == wilson(5, 10)
    assert Spread((0.5,), 1, 10, 10).sd is None
    assert "sd" not in shown(writer) and "seeds" not in shown(writer)


def test_the_rows_of_the_seeds_stay_as_they_are(three):
    (section,) = table(three.ledger).sections
    (line,) = section.lines
    assert [row.maker.seed for row in line.rows] == [0, 1, 2] == list(line.seeds)
    assert [row.summary.standing for row in section.rows] == [7, 6, 5]
    assert {id(row) for row in line.rows} == {id(row) for row in section.rows}


def test_lines_are_ranked_by_their_means(three):
    """The best seed of at, with 70 %, is above the mean of trades, 65 %; but the mean of at, 60 %, is below it."""
    trained(three, 0, "mart", range(2, 6), weights="mart 4")
    trained(three, 1, "trades", [2, 3], weights="trades 6")
    trained(three, 0, "trades", [2], weights="trades 7")
    assert [line.maker.defense for line in board(three)] == ["trades", "at", "mart"]
    assert [line.summary.accuracy for line in board(three)] == [0.65, 0.6, 0.4]


def test_while_a_seed_is_undecided_the_mean_is_a_bound_without_a_deviation(three):
    """b is asked of seed 0 alone; the others have at most what clean leaves, 8 of 10."""
    three.column("b", B)
    three.cell("at/0", B, range(2, 10), [5])
    trained(three, 0, "mart", [2, 3, 4, 5, 6, 7])
    three.cell("mart/0", B, range(2, 10), [5])
    first, second = board(three)
    spread = second.numbers["b"]
    assert (first.maker.defense, second.maker.defense) == ("mart", "at")  # a bound comes last
    assert (spread.bound, spread.decided, spread.seeds, spread.sd) == (True, 1, 3, None)
    assert spread.accuracy == pytest.approx((0.7 + 0.8 + 0.8) / 3)
    assert second.summary.bound and second.summary.accuracy == pytest.approx((0.4 + 0.7 + 0.6) / 3)
    assert not second.numbers["a"].bound
    assert "≤76.7" in shown(three)


def test_a_seed_that_was_asked_fewer_images_is_told(three):
    three.training("at", "fewer", seed=3)
    three.cell("fewer", "clean@1()", range(5), [0, 1])
    three.cell("fewer", A, range(2, 5), [2])
    (line,) = board(three)
    spread = line.numbers["a"]
    assert (spread.n, spread.most, spread.seeds) == (5, 10, 4)
    assert spread.sd == pytest.approx(np.std([0.5, 0.7, 0.6, 0.4], ddof=1))
    assert "n 5–10" in published(three.ledger, three.ledger.root.parent / "site").read_text()
    assert "55.0*" in shown(three)


def test_best_and_last_are_lines_of_their_own(three):
    for seed, fell in FELL.items():
        examined(three, f"at/{seed}/last", [*fell, 9])
    found = {line.which: line.summary.accuracy for line in board(three)}
    assert found == {"best": pytest.approx(0.6), "last": pytest.approx(0.5)}


def test_weights_that_are_equal_for_all_seeds_are_one_line_and_otherwise_belong_to_both(writer):
    writer.column("a", A)
    for seed in (0, 1):
        writer.training("at", f"at/{seed}", seed=seed)
        writer.training("mart", f"mart/{seed}", f"mart/{seed}" if seed else "mart/0/last", seed=seed)
    for weights, fell in {"at/0": [2], "at/1": [3], "mart/0": [2, 3], "mart/0/last": [2, 3, 4], "mart/1": [4]}.items():
        examined(writer, weights, fell)
    found = {(line.maker.defense, line.which): line for line in board(writer)}
    assert set(found) == {("at", "best = last"), ("mart", "best"), ("mart", "last")}
    assert told(found["mart", "best"].numbers["a"]) == (0.6, 0.7)
    assert told(found["mart", "last"].numbers["a"]) == (0.5, 0.7)
    assert "best = last" in shown(writer)


def test_equal_weights_and_a_seed_trained_twice_are_no_further_seeds(three):
    """A checkpoint heeds no seed; and what another machine made of seed 0 is not another seed."""
    for seed in (0, 1, 2):
        three.training("checkpoint", "pulled", seed=seed)
    examined(three, "pulled", [2])
    trained(three, 0, fell=range(2, 10), weights="elsewhere", made="2026-02-02T00:00:00Z")
    found = [line for line in board(three) if isinstance(line, Group)]
    assert [(line.maker.defense, line.seeds, told(line.summary)) for line in found] == [
        ("at", (0, 1, 2), (0.5, 0.7, 0.6))
    ]
    single = [(line.maker.defense, line.maker.seed) for line in board(three) if isinstance(line, Row)]
    assert sorted(single) == [("at", 0), ("checkpoint", 0), ("checkpoint", 1), ("checkpoint", 2)]


def test_other_settings_threats_and_data_are_other_groups(three):
    trained(three, 3, "at(steps=7)", [2])
    trained(three, 4, "at", [2], threat="linf:0.2")
    trained(three, 5, "at", [2], train="0" * 64)
    found = [(line.maker.defense, len(getattr(line, "rows", [0]))) for line in board(three)]
    assert sorted(found) == [("at", 1), ("at", 1), ("at", 3), ("at(steps=7)", 1)]


def test_doubts_and_notes_of_seeds_are_told_once_with_the_seeds(three):
    three.cell("at/1", A, range(2, 10), [2], doubts=["flat"])
    three.training("at", "at/3", "at/3/last", seed=3, source="f" * 64)
    examined(three, "at/3", [2])
    (line,) = board(three)
    assert [(d.text, d.attacks) for d in line.doubts] == [
        ("seed 1: flat", ("a",)),
        ("the defense's source changed between the seeds", ()),
    ]


def test_costs_of_a_group_are_means(three):
    (line,) = board(three)
    assert line.spent == Spent(180, 162, 2.0) and line.seconds == 61.0


def test_json_has_the_seeds_beside_the_rows(three, tmp_path):
    published(three.ledger, tmp_path)
    (section,) = json.loads((tmp_path / "board.json").read_text())["sections"]
    (group,) = section["seeds"]
    assert (group["defense"], group["which"], group["seeds"], len(section["rows"])) == ("at", "best", [0, 1, 2], 3)
    assert {r["weights"] for r in section["rows"]} == set(group["weights"])
    assert group["numbers"]["a"] == group["summary"] == {
        "mean": 0.6, "sd": 0.1, "n": 3, "decided": 3, "bound": False, "images": [10, 10],
    }  # fmt: skip


def test_the_page_says_sd_and_the_seeds_have_intervals(three, tmp_path):
    page = published(three.ledger, tmp_path).read_text()
    assert "sd 10.0" in page and "3 seeds" in page and "sample standard deviation over the seeds" in page
    assert page.count('<tr class="group">') == 1 and page.count('<tr class="seed">') == 3
    low, high = wilson(5, 10)
    assert f"{100 * low:.1f}–{100 * high:.1f}" in page


def test_the_terminal_says_what_each_plus_minus_is(three):
    printed = shown(three)
    assert "60.0 ±10.0" in printed and "50.0 ±26.3" in printed
    places = [printed.index(x) for x in ("3 seeds", "· seed 0", "· seed 1", "· seed 2")]
    assert places == sorted(places)
    assert "± is half the width of the 95 % interval\nin a line of several seeds: their mean, ± the sample" in printed


def test_a_deviation_stays_within_the_scale():
    """Seeds at 0, 0 and 10 %: the deviation is larger than the mean, and its bar ends at 0."""
    spread = Spread((0.0, 0.0, 0.1), 3, 10, 10)
    assert spread.interval == (0.0, pytest.approx(0.1 / 3 + np.std([0, 0, 0.1], ddof=1)))


def test_a_column_that_nobody_was_asked_is_absent():
    row = Row(Maker("at", 0), "cnn", "n", "w", (), {CLEAN: Number(8, 10, False, Spent())}, None, Spent(), (), {})
    assert row.numbers.get("a") is None and row.n == 10


def test_of_several_seeds_the_first_has_a_curve():
    """Nine rows, three seeds each: three curves, all of seed 0, whichever seed is the best."""
    rows = []
    for label, seed in itertools.product(("at", "mart", "trades"), (2, 1, 0)):
        number = Number(5 + seed, 10, False, Spent())
        curve = Curve((0.05,) * 10)
        maker = Maker(label, seed, "best", Writer(None).made(label, f"{label}/{seed}", seed=seed))
        rows.append(Row(maker, "cnn", "n", f"{label}/{seed}", (), {"fmn": number}, number, Spent(), (), {"fmn": curve}))
    heads = (Head("fmn", ("fmn@1()",)),)
    section = Section("digits", "t", "linf:0.1", "clean", heads, "worst", tuple(rows), lines(rows, heads), 10)
    (figure,) = figures(section)
    assert [(row.maker.defense, row.maker.seed) for row, _, _ in figure.lines] == [
        ("at", 0), ("mart", 0), ("trades", 0),
    ]  # fmt: skip
    assert figure.more == 6
