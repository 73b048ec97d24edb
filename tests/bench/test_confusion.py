"""bench figure confusion: matrices against a recount of records, and class weights against histories."""

from __future__ import annotations

from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from bench import IncompleteError, Picture, Record
from bench.executors import Inline
from bench.pictures_confusion import class_weights, confusion
from bench.place import Place
from bench.portraits import scene
from bench.records import picture_key
from bench.request import Request, resolve
from bench.run import run
from data.digits import digits
from leaderboard.picture_confusion import drawings, shade
from tests.conftest import TINY

SVG = "{http://www.w3.org/2000/svg}"
ASK = Request(("quick",), "tiny", columns=("clean", "slow", "pgd(steps=2)", "walks"), n=120, seeds=(0, 1))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A place with records of two models."""
    root = tmp_path_factory.mktemp("confusion")
    place = Place(root / "ledger", root / "store", root / "datasets", (str(TINY),))
    run(resolve(ASK, place), place, Inline(), report=lambda _line: None)
    return place


def seen(place):
    """Both models."""
    return scene(place, {
        "models": (), "defenses": ("quick",), "net": "tiny", "dataset": "digits", "trained_for": (), "seeds": (0, 1),
        "weights": (), "images": (),
    })  # fmt: skip


def recounted(place, weights, attack, n):
    """The matrix of a column of one attack, image by image, from records and their sidecars."""
    label = digits(place.data_root).test.y
    counts = np.zeros((10, 10), int)
    taken = {}
    for name in ("clean", attack):
        for record in place.ledger.all():
            if isinstance(record, Record) and record.weights == weights and record.attack.startswith(name):
                beside = place.ledger.images(record)
                for image, said, distance in zip(
                    record.asked, beside["predicted"].tolist(), beside["distance"].tolist(), strict=True
                ):
                    fell = distance <= 0.2 + 1e-6 if record.threat == "linf" else image in record.fell
                    if fell:
                        taken.setdefault(image, said)
    for image in range(n):
        counts[label[image], taken.get(image, label[image])] += 1
    return counts


def test_each_cell_is_recounted_image_by_image(place):
    """Clean, in a ball, and of minimum norm: all that clean or the column's attack felled, by what was read."""
    view = seen(place)
    picture = confusion(view, ("clean", "slow", "pgd(steps=2)", "walks"), "", 0)
    assert picture.settings["columns"] == ["clean", "slow", "pgd(steps=2)", "walks"] and picture.settings["n"] == 120
    arrays = place.ledger.arrays(picture)
    for m, model in enumerate(view.models):
        for c, attack in enumerate(("clean", "slow", "pgd", "walks")):
            expected = recounted(place, model.about.weights, attack, 120)
            assert arrays["counts"][m, c].tolist() == expected.tolist()
            assert arrays["untold"][m, c] == 0
            assert expected.sum() == 120 and np.trace(expected) < 120
    for row in picture.rows:
        m = [v.about.short for v in view.models].index(row[0])
        assert row[3] == (digits(place.data_root).test.y[:120] == int(row[2])).sum()
        assert m == 0 or row[4] <= row[3]


def test_fewer_images_are_the_first_ones_and_more_are_not_there(place):
    """-n 50 counts the first fifty; of 121 the last was never asked, and the error says how many were."""
    view = seen(place)
    picture = confusion(view, ("slow",), "", 50)
    assert place.ledger.arrays(picture)["counts"].sum((2, 3)).tolist() == [[50, 50], [50, 50]]  # with clean
    with pytest.raises(IncompleteError, match=r"of quick\S* .*on the first 120 test images"):
        confusion(view, ("slow",), "", 121)
    with pytest.raises(IncompleteError, match="on no image"):
        confusion(view, ("slow",), "linf:0.1", 0)


def test_class_weights_are_those_of_the_history():
    """Epochs without them are passed over, as are lists of another length; without any there is no drawing."""
    history = [
        {"epoch": 1, "loss": 1.0}, {"epoch": 2, "weight_by_class": [3.0, 1.0]}, {"epoch": 3, "weight_by_class": [1.0]},
        {"epoch": 4, "weight_by_class": [5.0, 2.5]},
    ]  # fmt: skip
    shown = SimpleNamespace(training=SimpleNamespace(history=history))
    epochs, weights = class_weights(shown, 2)
    assert epochs.tolist() == [2, 4] and weights.tolist() == [[3.0, 1.0], [5.0, 2.5]]
    assert class_weights(SimpleNamespace(training=SimpleNamespace(history=history[:1])), 2) is None


def drawn(classes, weights=None):
    """The drawings of a matrix whose every class is read right twice and once as the next."""
    counts = 2 * np.eye(classes, dtype=np.int64) + np.roll(np.eye(classes, dtype=np.int64), 1, 1)
    arrays = {"counts": counts[None, None], "untold": np.array([[1]])}
    if weights is not None:
        arrays |= {"epochs_0": np.arange(1, len(weights) + 1), "weights_0": np.array(weights)}
    model = {"label": "vir-at", "threat": "linf:0.3", "seed": 0, "which": "best", "net": "n", "weights": "a" * 64}
    settings = {"columns": ["aa"], "n": 3 * classes}
    picture = Picture.model_validate({
        "key": picture_key("confusion", 1, [("n", "a" * 64)], "b" * 64, [], settings), "kind": "confusion",
        "version": 1, "models": [model], "dataset": "some", "test": "b" * 64, "images": [], "settings": settings,
        "heads": [], "rows": [], "arrays": "c" * 64, "versions": {}, "commit": "", "made": "",
        "machine": {"device": "cpu", "name": "", "threads": 1, "tile": 0},
    })  # fmt: skip
    return drawings(picture, arrays, tuple(f"class {k}" for k in range(classes)))


@pytest.mark.parametrize("classes", [2, 10, 20, 21, 200])
def test_matrices_of_few_and_of_many_classes(classes):
    """Up to twenty classes have names and a rectangle a count; more are one picture of shades; all fit their paper."""
    (drawing,) = drawn(classes)
    root = ET.fromstring(drawing.svg)
    heat = [e for e in root.iter(f"{SVG}rect") if (e.get("class") or "").startswith("heat")]
    assert len(heat) == (2 * classes if classes <= 20 else 0)
    assert len(list(root.iter(f"{SVG}image"))) == (classes > 20)
    for e in root.iter(f"{SVG}rect"):
        assert float(e.get("x", 0)) + float(e.get("width")) <= drawing.size[0] + 0.5
        assert float(e.get("y", 0)) + float(e.get("height")) <= drawing.size[1] + 0.5
    assert f"{2 * classes} of {3 * classes + 1} read right; of 1 no reading is known" in drawing.said.replace(",", "")


def test_the_shade_is_the_root_of_the_share_of_the_row():
    """A row of 3 and 1; an empty row has none."""
    assert shade(np.array([[3, 1], [0, 0]])).tolist() == [[0.75**0.5, 0.5], [0, 0]]


def test_the_weights_drawing_tells_most_and_least():
    """A rectangle for each class and epoch, the last numbers beside them and in words."""
    _, drawing = drawn(2, [[3.0, 1.0], [5.0, 2.5]])
    heat = [e for e in ET.fromstring(drawing.svg).iter(f"{SVG}rect") if e.get("class") == "heat"]
    assert [e.get("fill-opacity") for e in heat] == ["0.600", "1.000", "0.200", "0.500"]
    assert "class 0 has most, 5, and class 1 least, 2.5" in drawing.said
