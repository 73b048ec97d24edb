"""bench reproduce: a published table planned, run, and set beside the paper's numbers."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from bench import ExamCard, Ledger, Record, TableCard, TrainingRecord

TINY = str(Path(__file__).parents[1] / "plugins" / "tiny.py")


def row(name, recipe, numbers, **more):
    return {"name": name, "defense": "quick", "said": {}, "recipes": {"": recipe}, "numbers": numbers, **more}


def paper(tmp_path, **changes):
    """A paper of two rows on digits, which a linear net learns in a second."""
    part = {
        "dataset": "digits", "net": "tiny", "threat": "linf:0.2", "suite": "quick",
        "columns": {"natural": {"column": "clean"}, "PGD": {"column": "pgd-20"}},
        "rows": [
            row("one", "quick(epochs=1)", {"natural": [80.0, 0.5], "PGD": [10.0, 1.0]}),
            row("two", "quick(epochs=2)", {"natural": [85.0, 0.5], "PGD": [11.0, None]}),
        ],
    } | changes  # fmt: skip
    table = {"name": "1", "about": "two rows", "runs": 2, "weights": ["last"], "notes": ["made up"], "parts": [part]}
    facts = {
        "schema": "rampart/paper-1", "name": "fake", "title": "A paper", "authors": ["A"], "venue": "none",
        "year": 2026,        "out_of_scope": {"las-at": "it is not here"}, "tables": [table],
    }  # fmt: skip
    (tmp_path / "fake.json").write_text(json.dumps(facts))
    return "fake.json"


def reproduce(bench, *words):
    return bench("reproduce", *words, "--plugin", TINY, "--device", "cpu", "--executor", "inline", "-n", "60")


def test_without_run_it_says_what_it_takes_and_writes_nothing(bench, tmp_path):
    ended = reproduce(bench, paper(tmp_path), "--table", "1", "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert [r["row"] for r in found["rows"]] == ["digits/tiny/one", "digits/tiny/two"]
    assert [r["trainings"] for r in found["rows"]] == [2, 2] and found["seconds"] > 0
    assert [r["images"] for r in found["rows"]] == [240, 240]  # clean and PGD-20 on 60 images, for two seeds
    assert "Nothing was started" in ended.stderr and "made up" in ended.stderr
    assert not (tmp_path / "results").exists()


def test_run_trains_attacks_and_compares_and_a_second_time_does_nothing(bench, tmp_path):
    """The numbers are recounted from the records; the recipes are those that bench run has for the same words."""
    words = (paper(tmp_path), "--table", "1", "--run", "--json")
    ended = reproduce(bench, *words)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["trained"], found["parity"]["run"], found["parity"]["cells"]) == (4, 4, 4)
    documents = list(Ledger(tmp_path / "results" / "ledger").all())
    lost = {}
    for r in (d for d in documents if isinstance(d, Record)):
        lost.setdefault(r.weights, {}).setdefault(r.attack.partition("@")[0], set()).update(r.fell)
    assert {name for w in lost.values() for name in w} == {"clean", "pgd"}  # and not fgsm, which the table lacks
    for line, epochs in zip(found["parity"]["rows"], (1, 2), strict=True):
        made = [t for t in documents if isinstance(t, TrainingRecord) and f"epochs={epochs}," in t.defense]
        assert sorted(t.seed for t in made) == line["seeds"] == [0, 1]
        clean, robust = (
            [100 * (60 - len(set().union(*(lost[t.weights["last"]][a] for a in attacks)))) / 60 for t in made]
            for attacks in (["clean"], ["clean", "pgd"])
        )
        for said, ours in (("natural", clean), ("PGD", robust)):
            cell = line["columns"][said]
            assert cell["ours"] == pytest.approx(statistics.mean(ours), abs=1e-4)
            assert cell["ours_sd"] == pytest.approx(statistics.stdev(ours), abs=1e-4)
            assert cell["difference"] == pytest.approx(cell["ours"] - cell["paper"], abs=2e-4)
            assert cell["z"] is None and cell["n"] == 60
    first = found["parity"]["rows"][0]["columns"]["natural"]
    assert first["why_no_z"] == "on 60 of 500 images"
    again = json.loads(reproduce(bench, *words).stdout)
    assert (again["trained"], again["images_asked"]) == (0, 0) and again["parity"] == found["parity"]
    ended = bench(
        "run", "--defense", "quick(epochs=1)", "quick(epochs=2)", "--net", "tiny", "--suite", "quick", "--seeds", "0,1",
        "--weights", "last", "-n", "60", "--plugin", TINY, "--executor", "inline", "--json",
    )  # fmt: skip
    assert json.loads(ended.stdout)["trained"] == 0  # they are the very trainings of bench run


def test_a_part_can_be_run_and_more_seeds_later_join_it(bench, tmp_path):
    words = (paper(tmp_path), "--table", "1", "--rows", "two", "--run", "--json")
    alone = json.loads(reproduce(bench, *words, "--seeds", "3").stdout)["parity"]["rows"]
    assert [(r["seeds"], r["columns"]["natural"]["why_no_z"]) for r in alone] == [
        ([], "not yet run"), ([3], "one seed: only the interval over its images")
    ]  # fmt: skip
    low, high = alone[1]["columns"]["natural"]["interval"]
    assert low < alone[1]["columns"]["natural"]["ours"] < high
    both = json.loads(reproduce(bench, *words, "--seeds", "5").stdout)["parity"]["rows"]
    assert both[1]["seeds"] == [3, 5]
    limited = json.loads(reproduce(bench, words[0], "--table", "1", "--limit", "1", "--json").stdout)
    assert [r["row"] for r in limited["rows"]] == ["digits/tiny/one"]


def test_a_table_without_clean_numbers_asks_clean_all_the_same(bench, tmp_path):
    """A strict column needs to know which images were lost to begin with; VIR's table of black boxes has no more."""
    rows = [row("one", "quick(epochs=1)", {"PGD": [10.0, 1.0]})]
    name = paper(tmp_path, columns={"PGD": {"column": "pgd-20"}}, rows=rows)
    ended = reproduce(bench, name, "--table", "1", "--seeds", "0", "--run", "--json")
    (line,) = json.loads(ended.stdout)["parity"]["rows"]
    assert line["columns"]["PGD"]["ours"] is not None and line["columns"]["PGD"]["n"] == 60


def test_what_a_plain_run_trained_counts_once_the_card_is_written(bench, tmp_path):
    name = paper(tmp_path)
    bench("run", "--defense", "quick(epochs=1)", "--net", "tiny", "--suite", "quick", "--weights", "last", "-n", "60",
          "--plugin", TINY, "--executor", "inline")  # fmt: skip
    ended = reproduce(bench, name, "--table", "1", "--rows", "one", "--seeds", "0", "--run", "--json")
    found = json.loads(ended.stdout)
    assert (found["trained"], found["images_asked"]) == (0, 0)
    assert found["parity"]["rows"][0]["columns"]["PGD"]["n"] == 60


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fake.json", "--table", "2"], "no table '2'"),
        (["fakes", "--table", "1"], "there is no paper 'fakes'"),
        (["vir", "--table", "1", "--rows", "las-at"], "las-at cannot be reproduced: its learnable attack strategy"),
        (["vir", "--table", "1", "--rows", "vir-ta"], "did you mean 'vir-at'"),
        (["vir", "--table", "1", "--dataset", "svhn"], "its data sets are cifar10"),
        (["vir", "--table", "1", "--variant", "released"], "each row has one recipe"),
        (["part", "--table", "main", "--variant", "relased"], "there is released"),
        (["fake.json", "--table", "1", "--seeds", "a"], "whole numbers"),
    ],
)  # fmt: skip
def test_what_is_misspelt_or_out_of_scope_is_named(bench, tmp_path, words, said):
    paper(tmp_path)
    ended = bench("reproduce", *words)
    assert ended.returncode == 2 and said in ended.stderr, ended.stderr


def test_images_that_are_not_here_are_named_and_the_exit_is_4(bench, tmp_path):
    """A data set that was not fetched, and generated images that nobody gave."""
    ended = bench("reproduce", "vir", "--table", "1", "--limit", "1", "--json")
    assert ended.returncode == 4 and "cifar10" in json.loads(ended.stdout)["cannot"]["cifar10/resnet18/at"]
    ended = bench("reproduce", "vir", "--table", "8")
    assert ended.returncode == 4 and "needs --extra FILE: 20M EDM-generated images" in ended.stderr


def test_a_table_of_another_threat_or_column_than_the_suite_s_is_refused(bench, tmp_path):
    paper(tmp_path, threat="linf:0.1")
    assert "the table is under linf:0.1" in reproduce(bench, "fake.json", "--table", "1").stderr
    paper(tmp_path, columns={"natural": {"column": "clean"}, "PGD": {"column": "pgd-21"}})
    ended = reproduce(bench, "fake.json", "--table", "1")
    assert ended.returncode == 2 and "has no column 'pgd-21'; did you mean 'pgd-20'" in ended.stderr
    (tmp_path / "fake.json").write_text('{"schema": "rampart/paper-2"}')
    assert "is no table that this version reads" in reproduce(bench, "fake.json", "--table", "1").stderr


def test_cards_are_told_apart_from_every_other_document(bench, tmp_path):
    reproduce(bench, paper(tmp_path), "--table", "1", "--run", "--rows", "one", "--seeds", "0")
    cards = [d for d in Ledger(tmp_path / "results" / "ledger").all() if isinstance(d, TableCard)]
    assert [(c.paper, c.table, c.row, c.which, len(c.columns)) for c in cards] == [
        ("fake", "1", "digits/tiny/one", "last", 2)
    ]
    assert any(isinstance(d, ExamCard) for d in Ledger(tmp_path / "results" / "ledger").all())


def test_the_table_of_the_page_runs_as_it_stands_there(bench, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text()
    (tmp_path / "mine.json").write_text(page.partition("```json\n")[2].partition("```")[0])
    ended = bench("reproduce", "mine.json", "--table", "1", "--run", "--json", "--executor", "inline", "-n", "100",
                  "--seeds", "0")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    at, trades = json.loads(ended.stdout)["parity"]["rows"]
    assert at["columns"]["PGD-20"]["n"] == 100 and trades["said"] == {"beta": 1.0}
    assert trades["columns"]["PGD-20"]["why_no_z"] == "the paper gives no deviation"
