"""bench figure regions: trainings with a smaller budget on a quarter, and what the records say of them."""

from __future__ import annotations

import pytest
import torch

from bench import IncompleteError, Record
from bench.executors import Inline
from bench.pictures_regions import HEADS, regions, sitting
from bench.place import Place
from bench.run import run
from defenses.part import quarter
from leaderboard.picture_regions import drawings, means

OPTIONS = {
    "net": "softmax-regression", "dataset": "digits", "threat": "linf:0.1", "seeds": (0,), "column": "pgd(steps=2)",
    "n": 60,
}  # fmt: skip
SETTINGS = "epochs=1, steps=2, drops=()"
NAMES = ["whole", "upper-left", "upper-right", "lower-left", "lower-right"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty place."""
    root = tmp_path_factory.mktemp("regions")
    return Place(root / "ledger", root / "store", root / "datasets")


def ran(place, low):
    """The picture of all five trainings."""
    found = place.registry.regions("quarters")
    sat = sitting(found, place, low, SETTINGS, OPTIONS)
    assert not run(sat.exam, place, Inline(), report=lambda _line: None).failures
    return regions(found, sat, place, low, SETTINGS, OPTIONS["column"])


def test_a_quarter_is_all_pixels_but_those():
    """Of 5x5 images the upper left quarter is 2x2 and the lower right one 3x3; together they are all."""
    x = torch.zeros(2, 3, 5, 5)
    out = {(d, r): ~quarter(x, d, r)[0, 0] for d in (False, True) for r in (False, True)}
    assert {k: int(v.sum()) for k, v in out.items()} == {
        (False, False): 4, (False, True): 6, (True, False): 6, (True, True): 9
    }  # fmt: skip
    assert (sum(v.int() for v in out.values()) == 1).all()
    assert out[False, True][0].tolist() == [False, False, True, True, True]


def test_numbers_are_counted_from_records_and_drawn(place):
    """Each line is recounted image by image; the drawing says how far each region is from the whole."""
    picture, missing = ran(place, 0.5)
    assert not missing and [row[0] for row in picture.rows] == NAMES
    for model, row in zip(picture.models, picture.rows, strict=True):
        of = [d for d in place.ledger.all() if isinstance(d, Record) and d.weights == model.weights]
        lost = {i for d in of if d.threat is None for i in d.fell}
        line = dict(zip(HEADS, row, strict=True))
        assert line["clean"] == (60 - len(lost)) / 60
        assert line["robust"] == (60 - len(lost | {i for d in of for i in d.fell})) / 60
    (drawing,) = drawings(picture, {}, ())
    shares = means(picture)
    gain = 100 * (shares["lower-left"][0] - shares["whole"][0])
    assert f"lower-left: clean {100 * shares['lower-left'][0]:.1f} % ({gain:+.1f})" in drawing.said
    assert drawing.svg.count('class="region"') == 4


def test_a_budget_that_is_not_smaller_changes_nothing(place):
    """With low=1 each region's training ends in the weights of the whole."""
    picture, _ = ran(place, 1.0)
    assert len({model.weights for model in picture.models}) == 1
    less, _ = ran(place, 0.5)
    assert len({model.weights for model in less.models}) == 5


def test_without_the_whole_there_is_nothing_to_compare_with(tmp_path, place):
    """The error names what lacks, and how it is made."""
    empty = Place(tmp_path / "ledger", tmp_path / "store", tmp_path)
    found = empty.registry.regions("quarters")
    with pytest.raises(IncompleteError, match=r"lacks whole, seed 0, upper-left.*--run makes them"):
        regions(found, sitting(found, empty, 0.5, SETTINGS, OPTIONS), empty, 0.5, SETTINGS, "pgd(steps=2)")
