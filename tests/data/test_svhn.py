import hashlib

import numpy as np
import pytest
from scipy.io import savemat

from bench import IncompleteError, IntegrityError
from data import svhn as module
from data.svhn import read_mat, svhn


def mat(count, first=0):
    """A file as the publisher's: X (32, 32, 3, N) of pixels, y (N, 1) from 1 to 10; 10 is the digit 0."""
    numbers = np.arange(first, first + count)
    x = np.zeros((32, 32, 3, count), np.uint8)
    x[0, 1, 2] = numbers % 251  # row 0, column 1, blue
    return {"X": x, "y": ((numbers - 1) % 10 + 1).astype(np.uint8)[:, None]}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """1,500 training and 40 test images, with their md5s in place of the real."""
    (tmp_path / "svhn").mkdir()
    sums = {}
    for name, arrays in (("train_32x32.mat", mat(1500)), ("test_32x32.mat", mat(40, 1500))):
        path = tmp_path / "svhn" / name
        savemat(path, arrays, do_compression=True)
        sums[name] = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(module, "FILES", sums)
    return tmp_path


def test_pixels_and_labels_are_in_their_places(root):
    """Row, column and colour are where the file has them, and label 10 becomes the digit 0."""
    loaded = svhn(root)
    assert loaded.test.x.shape == (40, 3, 32, 32)
    assert loaded.test.x[:, 2, 0, 1].tolist() == [n % 251 for n in range(1500, 1540)]
    assert int(loaded.test.x.astype(int).sum()) == sum(n % 251 for n in range(1500, 1540))
    assert loaded.test.y.tolist() == [n % 10 for n in range(1500, 1540)]
    places = np.random.RandomState(0).permutation(1500)
    assert loaded.val.y.tolist() == (places[:1000] % 10).tolist()
    assert loaded.train.y.tolist() == (places[1000:] % 10).tolist()


def test_torchvisions_place_is_found_too(root):
    """The two files may lie in the data folder itself."""
    there = svhn(root).test.hash
    for path in (root / "svhn").iterdir():
        path.rename(root / path.name)
    assert svhn(root).test.hash == there


def test_what_is_missing_or_damaged_is_named(root):
    """The missing file alone, with the command; the damaged one with both md5s."""
    test = root / "svhn" / "test_32x32.mat"
    test.write_bytes(test.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"test_32x32\.mat is not the published file.*expected [0-9a-f]{32}"):
        svhn(root)
    test.unlink()
    with pytest.raises(IncompleteError, match=r"expected test_32x32\.mat there[^~]*bench fetch svhn --data"):
        svhn(root)


@pytest.mark.parametrize("raw", [b"", b"text" * 100, "half", "other arrays"])
def test_a_file_that_is_no_such_mat_is_named_even_with_the_right_md5(tmp_path, raw):
    """Parsing never ends in a traceback."""
    path = tmp_path / "x.mat"
    savemat(path, {"X": np.zeros((2, 2))} if raw == "other arrays" else mat(9))
    if isinstance(raw, bytes):
        path.write_bytes(raw)
    elif raw == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(IntegrityError, match=r"x\.mat"):
        read_mat(path, hashlib.md5(path.read_bytes()).hexdigest())


def test_the_files_are_those_that_torchvision_downloads():
    """Names, addresses and md5s are torchvision's own."""
    datasets = pytest.importorskip("torchvision.datasets")
    for download, split in zip(svhn.downloads, ("train", "test"), strict=True):
        url, name, md5 = datasets.SVHN.split_list[split]
        assert (download.file, download.checksum) == (name, f"md5:{md5}") and url in download.urls
