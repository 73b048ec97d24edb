"""Some of the training images: which, under which name, and in which keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import UsageError
from bench.place import Place
from bench.request import Request, resolve
from data.digits import digits
from data.mnist import mnist
from data.npz import npz

from .test_mnist import SHARED, root  # noqa: F401  a fixture

NOWHERE = Path("nowhere")


def rows(part):
    """The images of a part with their labels, as a set of bytes."""
    return {x.tobytes() + bytes([y]) for x, y in zip(part.x, part.y.tolist(), strict=True)}


def test_more_images_hold_all_of_fewer_and_the_rest_of_the_data_set_stays():
    """100 of the training images are among 400, those among all; the others parts are those of the whole."""
    whole, some, fewer = (digits(NOWHERE, train_images=count) for count in (0, 400, 100))
    assert [len(d.train) for d in (whole, some, fewer)] == [1097, 400, 100]
    assert rows(fewer.train) < rows(some.train) < rows(whole.train)
    for part in ("val", "test"):
        assert getattr(fewer, part).hash == getattr(whole, part).hash
    assert np.bincount(fewer.train.y, minlength=10).min() > 0  # drawn from all classes


def test_the_whole_is_the_data_set_that_it_was():
    """Neither the name nor the hashes change where nobody asks for fewer images."""
    whole = digits(NOWHERE, train_images=0)
    assert (whole.name, whole.learnt) == ("digits", "")
    assert whole.train.hash == digits(NOWHERE).train.hash


@pytest.mark.parametrize("count", [1098, -1])
def test_a_count_that_is_not_there_is_an_error(count):
    """The error says how many images there are."""
    with pytest.raises(UsageError, match="has 1,097 training images"):
        digits(NOWHERE, train_images=count)


def test_the_count_is_in_the_key_of_a_training_and_not_in_its_exam(tmp_path):
    """Other training images are another training; the cells are asked on the same test part."""
    place = Place(tmp_path / "l", tmp_path / "s", tmp_path)
    whole, some = (
        resolve(Request(("at",), dataset=text), place) for text in ("digits", "digits(train_images=100)")
    )  # fmt: skip
    assert whole.lessons[0].training.key != some.lessons[0].training.key
    assert whole.lessons[0].training.defense == some.lessons[0].training.defense  # the presets of digits hold for both
    assert whole.dataset.test.hash == some.dataset.test.hash


def test_the_name_that_trainings_have_brings_the_images_back(tmp_path):
    """What a training says of its data set is a recipe of the same images."""
    place = Place(tmp_path / "l", tmp_path / "s", tmp_path)
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.integers(0, 256, (50, 1, 8, 8), np.uint8), "y_train": np.arange(50) % 2}
    np.savez(tmp_path / "mine.npz", **arrays, x_test=arrays["x_train"][:9], y_test=arrays["y_train"][:9])
    for found in (digits(NOWHERE, train_images=7), npz(tmp_path, file="mine.npz", train_images=7)):
        again = place.dataset(place.registry.parse("dataset", found.learnt))
        assert again.train.hash == found.train.hash and len(again.train) == 7


def test_two_digits_are_two_classes_in_the_order_in_which_they_are_named(root):  # noqa: F811
    """Of MNIST-shaped files whose labels count 0..9 every tenth image of each part is a 7; its label is 0 here."""
    pair = mnist(root, digits=(7, 5))
    assert (pair.name, pair.classes) == ("mnist(digits=(7, 5))", ("7", "5"))
    whole = mnist(root)
    for part in ("train", "val", "test"):
        ours, all_ = getattr(pair, part), getattr(whole, part)
        keep = np.isin(all_.y, (5, 7))
        assert (ours.x == all_.x[keep]).all() and (ours.y == (all_.y[keep] == 5)).all()


@pytest.mark.parametrize("asked", [(5,), (5, 5), (5, 10), ("5", "7"), (True, 7)])
def test_digits_that_are_not_two_different_ones_are_refused(root, asked):  # noqa: F811
    """One class is no task, and there are ten digits."""
    with pytest.raises(UsageError, match="expected two or more different ones from 0 to 9"):
        mnist(root, digits=asked)


@pytest.mark.shared
def test_the_real_fives_and_sevens_have_their_published_counts(tmp_path):
    """892 fives and 1,028 sevens test; 5,421 and 6,265 train or validate."""
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "raw").symlink_to(SHARED)
    pair = mnist(tmp_path, digits=(5, 7), train_images=1000)
    assert np.bincount(pair.test.y).tolist() == [892, 1028]
    assert pair.learnt == "mnist(digits=(5, 7), train_images=1000)" and len(pair.train) == 1000
    whole = mnist(tmp_path, digits=(5, 7))
    assert np.bincount(np.concatenate([whole.train.y, whole.val.y])).tolist() == [5421, 6265]
