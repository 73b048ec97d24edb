"""Published spoilt images as conditions: tiny arrays in the published layout."""

import json

import numpy as np
import pytest

from bench import Dataset
from bench.place import _dataset
from data import _official
from data._official import arrays
from data._parts import part
from data.corruptions_tables import EXTRA, MAIN
from tests.conftest import TINY

PLUGIN = '''
from bench import dataset
from tests.data.test_official import made

@dataset(net="tiny", threat="linf:0.1", name="small")
def small(root):
    """Five images of 32 pixels a side."""
    return made(root)
'''


def made(root):
    """Five test images, and what is published of them below the folder."""
    x = np.random.RandomState(0).randint(0, 256, (5, 3, 32, 32)).astype(np.uint8)
    test = part(x, np.arange(5) % 3)
    return Dataset("small", test, test, test, tuple("abc"), arrays(root / "CIFAR-10-C"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """CIFAR-10-C of five images: fog, where severity s is the images less s levels, and their labels."""
    monkeypatch.setattr(_official, "COUNT", 5)
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    x = made(tmp_path).test.x.transpose(0, 2, 3, 1)
    np.save(folder / "fog.npy", np.concatenate([x - np.uint8(s) for s in range(1, 6)]))
    np.save(folder / "labels.npy", np.tile(np.arange(5) % 3, 5))
    return folder


@pytest.fixture
def words(tmp_path):
    (tmp_path / "small.py").write_text(PLUGIN)
    return (
        "--defense", "untrained", "--net", "tiny", "--plugin", str(TINY), "--plugin", "small.py", "--dataset", "small",
        "--data", str(tmp_path), "--executor", "inline", "--json", "--columns", "clean",
    )  # fmt: skip


def test_severities_follow_each_other_in_a_file(folder, tmp_path):
    """Severity 3 is the third block, turned to channels first."""
    data = made(tmp_path)
    assert np.array_equal(data.official("fog", 3).x, data.test.x - np.uint8(3))


def test_official_and_generated_images_are_conditions_of_their_own(bench, folder, words, tmp_path):
    """Other keys, other sections that say which; another file is another key, and the old records stay."""

    def run(conditions):
        done = bench("run", *words, "--conditions", conditions)
        assert done.returncode == 0, done.stderr
        return {s["condition"]: s["rows"][0]["numbers"] for s in json.loads(done.stdout)["board"]["sections"]}

    board = run("fog, official/fog")
    assert {c: n["conditions"] for c in board for n in board[c].values()} == {
        "corruptions": 5,
        "official/corruptions": 5,
    }
    page = (tmp_path / "results/site/index.html").read_text()
    assert "corruptions, generated" in page and "corruptions, official" in page
    np.save(folder / "fog.npy", np.load(folder / "fog.npy") ^ 1)
    _dataset.cache_clear()  # what a process has loaded it keeps
    assert len(run("official/fog:2")["official/corruptions"]) == 2


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda f: (f / "fog.npy").unlink(), 4, "fog.npy is not there; expected the images under fog"),
        (lambda f: (f / "labels.npy").unlink(), 4, "zenodo.org/records/2535967"),
        (lambda f: (f / "fog.npy").write_text("<html>"), 5, "no whole .npy file"),
        (lambda f: np.save(f / "fog.npy", np.zeros((20, 32, 32, 3), np.uint8)), 5, "expected uint8 of shape (25, 32"),
        (lambda f: np.save(f / "fog.npy", np.zeros((25, 32, 32, 3))), 5, "holds float64"),
        (lambda f: np.save(f / "labels.npy", np.tile([0, 1, 2, 1, 0], 5)), 5, "at 2 of 5 places, 3 first"),
    ],
)
def test_what_is_missing_or_wrong_is_named(bench, folder, words, spoil, code, said):
    """With what was expected, and where to get it; nothing is asked."""
    spoil(folder)
    done = bench("plan", *words, "--conditions", "official/fog:1")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
    ("condition", "said"),
    [("official/fgo:1", "did you mean 'fog'"), ("official/fog(mist=1):1", "have no settings")],
)
def test_a_wrong_name_is_found_before_anything_is_loaded(bench, words, condition, said):
    """The nearest corruption is named."""
    done = bench("plan", *words, "--conditions", condition)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_data_without_published_images_say_so(bench, words):
    """And that the corruption can be generated."""
    done = bench("plan", *words, "--dataset", "digits", "--conditions", "official/fog:1")
    assert (done.returncode, "no spoilt images of digits are published" in done.stderr) == (2, True), done.stderr


def test_on_a_terminal_nineteen_corruptions_are_rows(bench, words, monkeypatch):
    """So that there is room for the defense's name in 60 columns."""
    monkeypatch.setenv("COLUMNS", "60")
    names = [name for name in MAIN + EXTRA if name != "frost"]
    spoken = [word for word in words if word != "--json"]
    done = bench("run", *spoken, "--conditions", ", ".join(f"{name}:1" for name in names))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert [line[0] for line in lines if line[0] in names] == sorted(names)
    assert ["untrained"] in lines
