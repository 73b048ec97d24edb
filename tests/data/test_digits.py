from pathlib import Path

import numpy as np

from data.digits import digits

NOWHERE = Path("nowhere")


def test_the_class_counts_are_those_of_the_published_test_part():
    """The three parts together hold as many images of each digit as UCI's list says, whatever the data folder."""
    loaded = digits(NOWHERE)
    labels = np.concatenate([loaded.train.y, loaded.val.y, loaded.test.y])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (1097, 200, 500)


def test_the_parts_never_change():
    """Trainings and cells are keyed by these hashes, so another split would orphan every record."""
    loaded = digits(NOWHERE)
    assert loaded.train.hash == "c692989d7cdef480968a567c1e285706de872ea7b1047af1bc7765b97e88954c"
    assert loaded.val.hash == "6b1e310eece62b33246493cf834b52d2cc2d721097504f9dbaa0a88c65889ff5"
    assert loaded.test.hash == "b81ff5b3c0cb999c6dff09d5d00c7120f7397277cb4f07e5dcd5e0b09dd4b3d0"


def test_the_sixteen_steps_of_grey_fill_the_range():
    """A value v of 0..16 becomes round(v * 255 / 16): 17 greys from 0 to 255."""
    loaded = digits(NOWHERE)
    greys = np.unique(np.concatenate([part.x.ravel() for part in (loaded.train, loaded.val, loaded.test)]))
    assert greys.tolist() == [round(v * 255 / 16) for v in range(17)]


def test_it_says_how_it_is_trained_and_attacked_by_default():
    """The default net and threat belong to the data set; unless told it gives all training images."""
    settings = {"train_images": 0}
    assert (digits.name, digits.net, digits.threat, digits.defaults) == ("digits", "cnn", "linf:0.2", settings)
    assert digits(NOWHERE).shape.size == 8
