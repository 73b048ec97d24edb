"""bench figure tradeoff: a study's points are ordinary trainings and records, and its numbers are theirs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from bench import IncompleteError, Record, TrainingRecord, UsageError, wilson
from bench.executors import Inline
from bench.pictures_tradeoff import HEADS, correlation, linear_weights, tradeoff
from bench.place import Place
from bench.request import Request, resolve
from bench.run import run
from bench.study import points, sittings
from data.digits import digits
from leaderboard.picture_tradeoff import _unbroken, drawings, outdone, share_of_weak

PLUGIN = str(Path(__file__).parents[1] / "plugins" / "studies.py")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A place in which the whole study was run."""
    root = tmp_path_factory.mktemp("study")
    place = Place(root / "ledger", root / "store", root / "datasets", (PLUGIN,))
    for sitting in sittings(place.registry.study("small"), place):
        assert not run(sitting.exam, place, Inline(), report=lambda _line: None).failures
    return place


def made(place, **changes):
    """The picture of the study, and what is missing."""
    study = replace(place.registry.study("small"), **changes)
    return tradeoff(study, sittings(place.registry.study("small"), place), place)


def lines(picture):
    """The table as dicts."""
    return [dict(zip(HEADS, row, strict=True)) for row in picture.rows]


def test_every_number_is_counted_from_the_records_of_its_point(done):
    """Of each line the images that no record of these weights felled, clean or attacked, are counted anew."""
    picture, missing = made(done)
    documents = list(done.ledger.all())
    trainings = [d for d in documents if isinstance(d, TrainingRecord)]
    counts = {200: digits(Path(), train_images=200).train.hash, 1097: digits(Path()).train.hash}
    assert not missing and len(picture.rows) == 2 * (3 + 3 + 2 + 2)  # and the main arms under the other norm
    for line in lines(picture):
        (training,) = (
            t for t in trainings
            if t.train == counts[line["training images"]] and (t.threat or "standard") == line["trained for"]
        )  # fmt: skip
        of = [d for d in documents if isinstance(d, Record) and d.weights == training.weights["best"]]
        lost = {i for d in of if d.threat is None for i in d.fell}
        fallen = lost | {i for d in of if d.threat == line["examined under"] for i in d.fell}
        assert line["n"] == 80
        for name, gone in (("clean", lost), ("robust", fallen)):
            assert line[name] == (80 - len(gone)) / 80
            assert (line[f"{name} low"], line[f"{name} high"]) == wilson(80 - len(gone), 80)
    arrays = done.ledger.arrays(picture)
    assert arrays["robust"].tolist() == [round(80 * line["robust"]) for line in lines(picture)]


def test_a_point_is_what_bench_run_has_for_the_same_words(done):
    """The keys of training and cells are those of an ordinary request, and nothing is left to do."""
    recipe = "at(epochs=1, drops=(), batch=64, steps=2)"
    asked = Request(
        (recipe,), "softmax-regression", "digits(train_images=200)", "l2:0.5", columns=("pgd(steps=3)",), n=80
    )  # fmt: skip
    exam = resolve(asked, done)
    assert len(done.ledger.of(exam.lessons[0].training.key, TrainingRecord)) == 1
    summary = run(exam, done, Inline(), report=lambda _line: None)
    assert (summary.trained, summary.asked) == (0, 0)


def test_run_makes_all_of_it_and_a_second_time_nothing(bench, done, tmp_path):
    """The command ends in the same table as the exams one by one; again, no training and no attack is run."""
    here = ("figure", "tradeoff", "--preset", "small", "--plugin", PLUGIN, "--sizes", "200", "--run", "--json")
    first = bench(*here, "--executor", "inline", "--ledger", "l", "--store", "s", "--out", "o")
    assert first.returncode == 0, first.stderr
    rows = [row for row in made(done)[0].rows if row[0] == 200]
    assert json.loads(first.stdout)["rows"] == rows
    files = sorted((tmp_path / "l").rglob("*"))
    again = bench(*here, "--executor", "inline", "--ledger", "l", "--store", "s", "--out", "o")
    assert again.returncode == 0 and sorted((tmp_path / "l").rglob("*")) == files


def test_what_is_missing_is_named_and_the_rest_is_drawn(done, tmp_path):
    """Without the records of one training its points are missing; with them the fuller picture outdoes the other."""
    whole, _ = made(done)
    root = tmp_path / "ledger"
    shutil.copytree(done.ledger_root, root)
    gone = next(d for d in done.ledger.all() if isinstance(d, TrainingRecord) and d.threat == "linf:0.05")
    shutil.rmtree(root / gone.key)
    some, missing = made(replace(done, ledger_root=root))
    assert 0 < len(missing) == len(whole.rows) - len(some.rows)
    assert all("linf:0.05 on" in name for name in missing)
    assert outdone(some, whole) and not outdone(whole, some) and not outdone(whole, whole)
    assert len(drawings(some, {}, ())) == 3
    with pytest.raises(IncompleteError, match="--run makes them"):
        made(replace(done, ledger_root=tmp_path / "nothing"))


def test_only_sizes_that_the_study_has_are_taken(done):
    """A size by itself is a part of the study; another one is an error."""
    study = done.registry.study("small")
    assert {p.arm.images for s in sittings(study, done, sizes=(200,)) for p in points(s, done)} == {200}
    with pytest.raises(UsageError, match="has no 300 training images"):
        sittings(study, done, sizes=(300,))


def test_the_drawings_hold_every_point_and_its_number(done):
    """A dot for each accuracy over eps and over images, whose title is the number; the first compares the norms."""
    picture, _ = made(done)
    found = {d.name: d for d in drawings(picture, {}, ())}
    assert list(found) == ["", "linf", "l2"]
    for name, arms, threats in (("linf", 3, 2), ("l2", 2, 1)):
        root = ET.fromstring(found[name].svg)
        dots = root.findall(f".//{SVG}circle")
        # Over eps: clean and each threat for each arm.  Over images: clean and robust for each arm and size.
        assert len(dots) == arms * (1 + threats) + 2 * arms * 2
        assert all(dot.findtext(f"{SVG}title", "").endswith(" %") for dot in dots)
    rows = {(x["training images"], x["trained for"], x["examined under"]): x for x in lines(picture)}
    said = found[""].said
    for trained in ("standard", "linf:0.1", "l2:0.5"):
        who = "standard training" if trained == "standard" else f"trained for {trained}"
        for threat in ("linf:0.1", "l2:0.5"):
            assert f"{who}, {threat}: {100 * rows[1097, trained, threat]['robust']:.1f} %" in said
    assert found[""].svg == drawings(picture, {}, ())[0].svg


def test_correlations_are_numpys_and_weights_those_of_the_layer(done):
    """Pearson's, pixel by pixel, 0 where one never changes; the weights are the difference of two rows."""
    keep = np.isin(digits(Path()).train.y, (0, 1))
    x, y = digits(Path()).train.x[keep], digits(Path()).train.y[keep]
    found = correlation(SimpleNamespace(x=x, y=y))
    flat = x.reshape(len(x), -1).astype(float)
    for pixel in range(64):
        varies = flat[:, pixel].std() > 0
        expected = np.corrcoef(flat[:, pixel], 2 * y - 1)[0, 1] if varies else 0.0
        assert found.ravel()[pixel] == pytest.approx(expected, abs=1e-6)
    training = next(d for d in done.ledger.all() if isinstance(d, TrainingRecord))
    two = SimpleNamespace(name="two", classes=("0", "1"), shape=digits(Path()).shape, test=digits(Path()).test)
    weights = linear_weights(done, training.net, training.weights["best"], two)
    layer = done.store.get(training.weights["best"])["linear.weight"]
    assert np.allclose(weights.ravel(), (layer[1] - layer[0]).numpy(), atol=1e-6)
    with pytest.raises(UsageError, match="10 classes; expected two"):
        linear_weights(done, training.net, training.weights["best"], digits(Path()))


def test_a_line_ends_where_a_point_is_missing():
    """Of four places the second has no point: the first stands alone, the other two are joined."""
    points = [(0.0, 1.0), (0.2, 0.5), (0.3, 0.4)]
    runs = _unbroken(points, [(0, 0), (2, 2), (3, 3)], [0.0, 0.1, 0.2, 0.3])
    assert runs == [[(0, 0)], [(2, 2), (3, 3)]]


def test_the_share_on_weak_pixels_is_a_share_of_all_weight():
    """Of weights 1, 1 and 2 on pixels of correlation 0.1, 0.5 and 0: three quarters are on weak ones."""
    correlations = np.array([[[0.1, 0.5, 0.0]]])
    weights = np.array([[[[1.0, -1.0, 2.0]]], [[[0.0, 0.0, 0.0]]]])
    assert share_of_weak(correlations, weights).tolist() == [0.75, 0.0]


def test_the_command_plans_and_draws(bench, done, tmp_path):
    """A plan counts what is missing and writes nothing; --sizes draws a part; the JSON has the table."""
    here = ("figure", "tradeoff", "--preset", "small", "--plugin", PLUGIN, "--json")
    planned = bench(*here, "--plan", "--ledger", str(tmp_path / "none"), "--store", str(tmp_path / "none"))
    assert planned.returncode == 0, planned.stderr
    found = json.loads(planned.stdout)
    assert (found["points"], found["missing"], found["trainings"]) == (20, 20, 8)
    assert not (tmp_path / "none").exists()
    places = ("--ledger", str(done.ledger_root), "--store", str(done.store_root))
    drawn = bench(*here, *places, "--sizes", "200", "--out", "out")
    assert drawn.returncode == 0, drawn.stderr
    rows = json.loads(drawn.stdout)["rows"]
    assert {row[0] for row in rows} == {200} and len(rows) == 10
    assert len(list((tmp_path / "out").glob("*.svg"))) == 3
    assert bench(*here, *places, "--sizes", "7").returncode == 2
    assert bench(*here, "--preset", "smal").returncode == 2
