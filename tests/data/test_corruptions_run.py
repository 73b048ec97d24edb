"""The corruptions as a user meets them: suites and --conditions."""

import json

import numpy as np
import pytest

from data import frost as frosts
from tests.conftest import TINY
from tests.data.corruptions_scene import pattern, use_frost


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The words that name a data set of 28 gray pixels a side, an untrained linear net, and frost; 5 images."""
    use_frost(tmp_path / "frost", monkeypatch)
    x = np.stack([pattern(28, 28, i)[None] for i in range(30)])
    y = np.arange(30) % 3
    np.savez(tmp_path / "gray.npz", x_train=x[5:], y_train=y[5:], x_test=x[:5], y_test=y[:5])
    return (
        "--defense", "untrained", "--net", "tiny", "--plugin", str(TINY), "--dataset", "npz:gray.npz",
        "--data", str(tmp_path), "--threat", "linf:0.1", "--executor", "inline", "--json",
    )  # fmt: skip


def sections(done):
    assert done.returncode == 0, done.stderr
    return {section["condition"]: section for section in json.loads(done.stdout)["board"]["sections"]}


def test_the_suite_asks_clean_under_every_corruption_and_severity(bench, words):
    """Nineteen heads, each the mean over five conditions; again there is nothing to do."""
    board = sections(bench("run", *words, "--suite", "corruptions"))["corruptions"]
    (row,) = board["rows"]
    assert len(row["numbers"]) == 19
    assert {number["conditions"] for number in row["numbers"].values()} == {5}
    assert (row["summary"]["conditions"], row["summary"]["n"]) == (95, 5)
    assert "Nothing to do" in bench("run", *words, "--suite", "corruptions").stderr


def test_without_frost_the_suite_has_eighteen_and_says_so(bench, words, tmp_path, monkeypatch):
    """In the run's last words, with how to get it, and on the page."""
    monkeypatch.delenv(frosts.VARIABLE)

    def absent(_name):
        raise frosts.PackageNotFoundError

    monkeypatch.setattr(frosts, "files", absent)
    done = bench("run", *words, "--suite", "corruptions")
    (row,) = sections(done)["corruptions"]["rows"]
    assert len(row["numbers"]) == 18 and "frost" not in row["numbers"]
    assert "Left out: frost: frost needs five photographs" in done.stderr
    page = (tmp_path / "results" / "site" / "index.html").read_text()
    assert "is over 18 corruptions" in page
    done = bench("run", *words, "--columns", "clean", "--conditions", "frost:1")
    assert (done.returncode, "condition frost:1: frost needs" in done.stderr) == (2, True)


def test_an_attack_runs_on_corrupted_images(bench, words, tmp_path):
    """Its ball is about the corrupted image, its clean column is that of the condition, and the keys are apart."""
    board = sections(bench("run", *words, "--columns", "clean, slow", "--conditions", "clean, contrast:5"))
    assert {"clean", "contrast:5", "corruptions"} <= board.keys()
    for condition in ("clean", "contrast:5"):
        (row,) = board[condition]["rows"]
        assert row["numbers"].keys() == {"clean", "slow"}
    records = [json.loads(p.read_text()) for p in (tmp_path / "results/ledger").rglob("*.json")]
    cells = {(r["condition"], r["attack"].partition("@")[0], r["key"]) for r in records if "condition" in r}
    assert {c[:2] for c in cells} == {(c, a) for c in ("clean", "contrast@1():5") for a in ("clean", "slow")}
    assert len({key for *_, key in cells}) == 4


def test_conditions_take_the_place_of_a_suites_own(bench, words):
    """A corruption without a severity is all five; a suite's columns are kept."""
    done = bench("plan", *words, "--suite", "quick", "--conditions", "fog, clean")
    lines = [line["what"].partition(": ")[2] for line in json.loads(done.stdout)["lines"][1:]]
    wanted = [*(f" under fog@1():{s}" for s in range(1, 6)), ""]
    assert lines == [f"{column}{under}" for under in wanted for column in ("clean", "fgsm", "pgd-20")]


@pytest.mark.parametrize(
    ("conditions", "said"),
    [("fgo:3", "did you mean 'fog'"), ("fog:6", "severity from 1 to 5"), ("fog(mist=1):2", "no setting 'mist'")],
)
def test_a_wrong_condition_is_named(bench, words, conditions, said):
    """Before anything is loaded or trained."""
    done = bench("run", *words, "--dataset", "npz:nowhere.npz", "--conditions", conditions)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_images_that_are_too_small_are_left_out_of_a_suite_and_refused_by_name(bench):
    """Digits are 8 pixels a side: `full` goes on without corruptions, `corruptions` and --conditions cannot."""
    common = ("plan", "--defense", "standard")
    full = bench(*common, "--suite", "full")
    assert full.returncode == 0 and " under " not in full.stderr
    assert "Left out: gaussian_noise, shot_noise" in full.stderr and "these have 8" in full.stderr
    for words in (("--suite", "corruptions"), ("--conditions", "fog:3")):
        done = bench(*common, *words)
        assert (done.returncode, "28 pixels a side or more, and these have 8" in done.stderr) == (2, True)
