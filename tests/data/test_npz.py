import numpy as np
import pytest

from bench import UsageError
from bench.registry import Registry
from data import npz as module
from data.npz import npz


def arrays(**changes):
    """A good file's arrays, 40 training and 5 test images of 3x8x8 in 4 classes; None takes a key away."""
    x = np.arange(40, dtype=np.uint8)[:, None, None, None] + np.zeros((40, 3, 8, 8), np.uint8)
    good = {"x_train": x, "y_train": np.arange(40) % 4, "x_test": x[:5], "y_test": np.arange(5) % 4}
    return {key: value for key, value in (good | changes).items() if value is not None}


@pytest.fixture
def load(tmp_path):
    """Save these arrays as mine.npz and load them."""

    def load(**changes):
        np.savez(tmp_path / "mine.npz", **arrays(**changes))
        return npz(tmp_path, file="mine.npz")

    return load


def test_a_tenth_of_the_training_images_validates(load):
    """Without x_val it is the first tenth of the seed-0 permutation; names of classes are numbers."""
    loaded = load()
    places = np.random.RandomState(0).permutation(40)
    assert loaded.val.x[:, 0, 0, 0].tolist() == places[:4].tolist()
    assert loaded.train.x[:, 0, 0, 0].tolist() == places[4:].tolist()
    assert loaded.train.y.tolist() == (places[4:] % 4).tolist()
    assert loaded.test.x[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert (loaded.name, loaded.classes) == ("npz:mine.npz", ("0", "1", "2", "3"))


def test_at_most_a_thousand_images_validate(load):
    """Of 20,000 training images 1,000 validate, not 2,000."""
    loaded = load(x_train=np.zeros((20_000, 3, 8, 8), np.uint8), y_train=np.zeros(20_000, int))
    assert (len(loaded.train), len(loaded.val)) == (19_000, 1_000)


def test_the_users_own_validation_images_and_classes_are_taken(load):
    """With x_val and classes nothing is held out and nothing is renamed; other keys do no harm."""
    good = arrays()
    loaded = load(
        x_val=good["x_test"], y_val=good["y_test"], classes=np.array(["a", "b", "c", "d", "e"]), idx_train=np.arange(40)
    )
    assert len(loaded.train) == 40 and loaded.val.hash == loaded.test.hash
    assert loaded.classes == ("a", "b", "c", "d", "e")


def test_a_relative_path_is_looked_for_as_given_then_under_the_data_folder(tmp_path, monkeypatch):
    """Beside the user first; then in root; an absolute path needs neither."""
    here, root = tmp_path / "here", tmp_path / "root"
    here.mkdir()
    root.mkdir()
    monkeypatch.chdir(here)
    np.savez(root / "mine.npz", **arrays())
    assert len(npz(root, file="mine.npz").test) == 5
    np.savez(here / "mine.npz", **arrays(x_test=arrays()["x_test"][:3], y_test=np.arange(3)))
    assert len(npz(root, file="mine.npz").test) == 3
    assert len(npz(here, file=str(root / "mine.npz")).test) == 5


def test_a_missing_file_names_the_folders_and_the_nearest_file(tmp_path):
    """A typing error in the name is met with the name that was meant."""
    np.savez(tmp_path / "flowers.npz", **arrays())
    with pytest.raises(UsageError, match=r"looked in .* and .*did you mean 'flowers\.npz'"):
        npz(tmp_path, file="flwers.npz")


def test_the_command_line_writes_it_with_a_colon():
    """`npz:FILE` is the recipe of npz with that file, and a recipe without a file is an error."""
    registry = Registry()
    registry.collect(module)
    assert registry.parse("dataset", "npz:some/mine.npz").settings["file"] == "some/mine.npz"
    with pytest.raises(UsageError, match="npz needs a setting"):
        registry.parse("dataset", "npz")


GOOD = arrays()
WRONG = {
    "missing key": ({"y_test": None}, "has no 'y_test'; it has x_train, y_train, x_test"),
    "misspelt needed key": ({"y_test": None, "ytest": GOOD["y_test"]}, "has no 'y_test'.*did you mean 'ytest'"),
    "misspelt optional key": ({"x_valid": GOOD["x_test"]}, "has 'x_valid', which is none of.*did you mean 'x_val'"),
    "other name for classes": ({"class_names": np.array(["a"])}, "'class_names'.*did you mean 'classes'"),
    "half a validation part": ({"x_val": GOOD["x_test"]}, "only one of x_val and y_val; expected both"),
    "floats": ({"x_test": GOOD["x_test"] / 255}, r"x_test is float64; expected uint8.*np\.rint\(x \* 255\)"),
    "signed": ({"x_test": GOOD["x_test"].astype(np.int64)}, "x_test is int64; expected uint8"),
    "channels last": (
        {"x_train": GOOD["x_train"].transpose(0, 2, 3, 1)},
        r"\(40, 8, 8, 3\), which looks like NHWC.*transpose\(0, 3, 1, 2\)",
    ),
    "no channels": ({"x_train": GOOD["x_train"][:, 0]}, r"\(40, 8, 8\); expected.*x\[:, None\]"),
    "flat images": ({"x_train": GOOD["x_train"].reshape(40, -1)}, r"\(40, 192\); expected uint8 \(N, C, H, W\)"),
    "not square": ({"x_train": GOOD["x_train"][:, :, :4]}, "with H = W"),
    "no images": ({"x_test": GOOD["x_test"][:0], "y_test": GOOD["y_test"][:0]}, "x_test.*empty"),
    "two sizes": (
        {"x_test": GOOD["x_test"][:, :, :4, :4]},
        r"x_test holds images of \(3, 4, 4\); expected \(3, 8, 8\)",
    ),
    "fewer labels": ({"y_train": GOOD["y_train"][1:]}, r"y_train has shape \(39,\); expected \(40,\)"),
    "a column of labels": ({"y_train": GOOD["y_train"][:, None]}, r"\(40, 1\).*y\.ravel\(\)"),
    "one-hot labels": ({"y_train": np.eye(4, dtype=int)[GOOD["y_train"]]}, r"\(40, 4\).*y\.argmax\(1\)"),
    "float labels": ({"y_train": GOOD["y_train"] * 1.0}, "y_train is float64; expected whole numbers"),
    "negative labels": ({"y_test": GOOD["y_test"] - 1}, "y_test runs from -1 to 2; expected class indices from 0"),
    "absurd labels": ({"y_test": GOOD["y_test"] + 10**9}, "y_test runs from 1000000000"),
    "one class": ({"y_train": GOOD["y_train"] * 0, "y_test": GOOD["y_test"] * 0}, "has 1 classes.*expected 2 or more"),
    "too few names": ({"classes": np.array(["a", "b"])}, "2 classes and labels up to 3; expected 4"),
    "names that are numbers": ({"classes": np.arange(4)}, r"classes is int64 of shape \(4,\); expected a row of text"),
    "pickled names": ({"classes": np.array(["a", 1], dtype=object)}, "classes cannot be read.*expected plain arrays"),
    "one training image": ({"x_train": GOOD["x_train"][:1], "y_train": np.array([0])}, "x_train has one image"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_says_what_was_wrong_and_what_was_expected(load, changes, message):
    """Every mistake has its own sentence, and the exit code of a usage error."""
    with pytest.raises(UsageError, match=message) as caught:
        load(**changes)
    assert "mine.npz" in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize("raw", [b"", b"not a zip", "truncated"])
def test_a_file_that_is_no_zip_is_named(tmp_path, raw):
    """An empty file, a text file and a download that broke off are not whole .npz files."""
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:-100] if raw == "truncated" else raw)
    with pytest.raises(UsageError, match=r"mine\.npz is not a whole \.npz file"):
        npz(tmp_path, file="mine.npz")


def test_a_damaged_array_is_named(tmp_path):
    """A byte that flipped inside an array is found by the zip's checksum, not read as a pixel."""
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays())
    raw = bytearray(path.read_bytes())
    raw[2000] ^= 1  # in x_train, the first array
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=r"mine\.npz: x_train cannot be read"):
        npz(tmp_path, file="mine.npz")
