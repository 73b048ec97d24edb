"""What is asked, and the keys that name it."""

import hashlib
from dataclasses import fields, replace

import numpy as np
import pytest

from bench.errors import UsageError
from bench.exam import Cell, Condition, Dataset, Part, Shape, Training, digest


def part(n=4, channels=3, size=8, classes=2):
    """Black images."""
    return Part(np.zeros((n, channels, size, size), np.uint8), np.arange(n) % classes)


def test_digest():
    """A digest is the sha256 of canonical JSON, whatever the order of its keys."""
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert digest({"b": 1, "a": "é"}) == digest({"a": "é", "b": 1}) != digest({"a": "e", "b": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        digest({"a": float("nan")})


CELL = Cell("cnn@1()", "0" * 64, "1" * 64, "clean", "linf:8/255", "pgd@1()", 0)
TRAINING = Training("trades@1()", "cnn@1()", "0" * 64, "1" * 64, "linf:8/255", 0)


@pytest.mark.parametrize("thing", [CELL, TRAINING], ids=["cell", "training"])
def test_every_field_is_in_the_key(thing):
    """The key changes with every field, and with nothing else."""
    keys = {thing.key}
    for field in fields(thing):
        value = getattr(thing, field.name)
        keys.add(replace(thing, **{field.name: value + 1 if isinstance(value, int) else f"{value}x"}).key)
    assert len(keys) == 1 + len(fields(thing)) and all(len(k) == 64 for k in keys)
    assert replace(thing).key == thing.key


def test_keys_never_change():
    """Keys are names in ledgers that exist: each is the sha256 of this text, and a change of it orphans records."""
    cell = (
        '{"cell":{"attack":"pgd@1()","condition":"clean","net":"cnn@1()","precision":"exact","seed":0,'
        f'"test":"{"1" * 64}","threat":"linf:8/255","weights":"{"0" * 64}"}}}}'
    )
    training = (
        '{"training":{"defense":"trades@1()","net":"cnn@1()","seed":0,"threat":"linf:8/255",'
        f'"train":"{"0" * 64}","val":"{"1" * 64}"}}}}'
    )
    assert CELL.key == hashlib.sha256(cell.encode()).hexdigest()
    assert TRAINING.key == hashlib.sha256(training.encode()).hexdigest()


def test_hash_of_a_part():
    """The hash depends on shape, pixels and labels, and not on memory layout or on the type of the labels."""
    one = part()
    assert Part(np.asfortranarray(one.x), one.y.astype(np.int32)).hash == one.hash == part().hash
    moved = one.x.copy()
    moved[0, 0, 0, 0] = 1
    others = [Part(moved, one.y), Part(one.x, one.y[::-1].copy()), Part(one.x.reshape(4, 3, 4, 16), one.y), part(5)]
    assert len({one.hash, *(p.hash for p in others)}) == 5
    assert len(part(0).hash) == 64


def test_parts_are_checked():
    """Images are uint8 in four axes, with one label each."""
    with pytest.raises(UsageError, match="uint8"):
        Part(np.zeros((2, 3, 8, 8), np.float32), np.zeros(2, np.int64))
    with pytest.raises(UsageError, match="uint8"):
        Part(np.zeros((2, 8, 8), np.uint8), np.zeros(2, np.int64))
    with pytest.raises(UsageError, match="2 images need as many labels"):
        Part(np.zeros((2, 3, 8, 8), np.uint8), np.zeros(3, np.int64))


def test_datasets_are_checked():
    """Labels lie within the classes, all parts have one square shape, and the shape is what a net must take."""
    good = Dataset("toy", part(), part(), part(6), ("cat", "dog"))
    assert good.shape == Shape(classes=2, channels=3, size=8) and len(good.test) == 6
    with pytest.raises(UsageError, match="val part run from 0 to 2, and there are 2 classes"):
        Dataset("toy", part(), part(classes=3), part(), ("cat", "dog"))
    with pytest.raises(UsageError, match="one image shape"):
        Dataset("toy", part(), part(size=9), part(), ("cat", "dog"))
    wide = Part(np.zeros((2, 3, 8, 9), np.uint8), np.zeros(2, np.int64))
    with pytest.raises(UsageError, match="square"):
        Dataset("toy", wide, wide, wide, ("cat", "dog"))


@pytest.mark.parametrize("text", ["clean", "fog:1", "jpeg_compression:5", "fog@1():3", "my(x='a:1'):2"])
def test_conditions_read_back(text):
    """A condition reads back from its text."""
    assert str(Condition.parse(text)) == text


@pytest.mark.parametrize("text", ["", "fog", "fog:0", "fog:6", ":3", "fog:3 ", "clean:x"])
def test_bad_conditions(text):
    """What is no condition is an error that shows how one is written."""
    with pytest.raises(UsageError, match="fog:3"):
        Condition.parse(text)
