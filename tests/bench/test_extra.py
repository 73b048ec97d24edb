"""More images to train on."""

import numpy as np
import pytest

from bench import Part, Shape, UsageError, extra_images

SHAPE = Shape(classes=10, channels=3, size=8)


def arrays(**changes):
    """Fifty generated images, as they are published: NHWC, with labels."""
    image = np.random.RandomState(0).randint(0, 256, (50, 8, 8, 3), np.uint8)
    good = {"image": image, "label": np.arange(50) % 10}
    return {key: value for key, value in (good | changes).items() if value is not None}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_images_come_out_nchw(tmp_path, save):
    """Pixels, labels and hash are those of the transposed arrays, compressed or not."""
    save(tmp_path / "more.npz", **arrays())
    found, good = extra_images(tmp_path / "more.npz", SHAPE), arrays()
    held = Part(np.ascontiguousarray(good["image"].transpose(0, 3, 1, 2)), good["label"])
    assert (found.x == held.x).all() and found.y.tolist() == held.y.tolist() and found.hash == held.hash


def test_an_uncompressed_file_stays_on_the_disk(tmp_path):
    """It is mapped into memory, read-only, and rows are taken from it as from any array."""
    np.savez(tmp_path / "more.npz", **arrays())
    found = extra_images(tmp_path / "more.npz", SHAPE)
    base = found.x
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) and not found.x.flags.writeable
    assert (found.x[np.array([7, 3])] == arrays()["image"].transpose(0, 3, 1, 2)[[7, 3]]).all()


def test_fortran_order_is_read_too(tmp_path):
    """As numpy writes it."""
    np.savez(tmp_path / "more.npz", **arrays(image=np.asfortranarray(arrays()["image"])))
    assert (extra_images(tmp_path / "more.npz", SHAPE).x == arrays()["image"].transpose(0, 3, 1, 2)).all()


WRONG = {
    "no labels": ({"label": None}, "has no 'label'; it has image"),
    "NCHW": ({"image": arrays()["image"].transpose(0, 3, 1, 2)}, r"\(50, 3, 8, 8\); expected uint8 \(N, 8, 8, 3\)"),
    "floats": ({"image": arrays()["image"] / 255}, "image is float64"),
    "none": ({"image": arrays()["image"][:0], "label": np.arange(0)}, r"image is uint8 \(0, 8, 8, 3\)"),
    "fewer labels": ({"label": np.arange(49)}, r"label is int64 \(49,\); expected whole numbers \(50,\)"),
    "another class": ({"label": np.arange(50)}, "label runs from 0 to 49; expected 0 to 9"),
    "pickled": ({"label": np.array([None] * 50)}, "label cannot be read"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_wrong_file_says_what_was_wrong_and_what_was_expected(tmp_path, save, changes, message):
    """Every mistake has its own sentence, with the file's name."""
    save(tmp_path / "more.npz", **arrays(**changes))
    with pytest.raises(UsageError, match=rf"more\.npz.*{message}"):
        extra_images(tmp_path / "more.npz", SHAPE)


def test_a_damaged_or_absent_file_is_named(tmp_path):
    """Cut short, not a zip, cut inside an array, and not there."""
    path = tmp_path / "more.npz"
    np.savez(path, **arrays())
    whole = path.read_bytes()
    for raw in (whole[:-100], b"", b"text", whole[:200] + whole[5_000:]):
        path.write_bytes(raw)
        with pytest.raises(UsageError, match=r"more\.npz: image cannot be read"):
            extra_images(path, SHAPE)
    with pytest.raises(UsageError, match=r"there is no such file; did you mean 'more\.npz'"):
        extra_images(tmp_path / "mor.npz", SHAPE)
