"""Handwritten digits of 8x8 pixels, small enough to come with the code."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench import Dataset, dataset
from data._parts import few, order, part

FILE = Path(__file__).with_name("digits.npz")  # x: (1797, 1, 8, 8) of 0..16, y: (1797,); source in digits.LICENSE.txt
TEST, VAL = 500, 200


@dataset(net="cnn", threat="linf:0.2")
def digits(root: Path, *, train_images: int = 0) -> Dataset:
    """UCI's optical digits, embedded: 1,797 images of 8x8 in 10 classes; 1,097 train, 200 validate, 500 test.

    train_images: so many of the training images; 0 is all.
    """
    with np.load(FILE, allow_pickle=False) as file:
        x, y = file["x"], file["y"]
    x = np.rint(x * (255 / 16)).astype(np.uint8)
    places = order(len(y))
    test, val, train = np.split(places, [TEST, TEST + VAL])
    found = Dataset(
        "digits", part(x[train], y[train]), part(x[val], y[val]), part(x[test], y[test]), tuple("0123456789")
    )
    return few(found, train_images)
