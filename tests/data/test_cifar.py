import builtins
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from bench import IncompleteError, IntegrityError
from data import cifar
from data.cifar import CLASSES, FILES, cifar10, read_batch, unpickle

# A batch as Python 2 and the NumPy of 2009 pickled it: {"labels": [3, 9], "data": uint8 of shape (2, 3)}, 0 to 5.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x03K\teU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05"
    b"cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87R"
    b"q\t(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x02\x03\x04\x05tbu."
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Six batches of 400 images, an image's number in its first two pixels, and their md5s in place of the real."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    sums = {}
    for i, name in enumerate(FILES):
        data = np.zeros((400, 3072), np.uint8)
        data[:, :2] = np.arange(400 * i, 400 * (i + 1), dtype=">u2").view(np.uint8).reshape(-1, 2)
        raw = pickle.dumps({"data": data, "labels": [(400 * i + j) % 10 for j in range(400)]}, protocol=2)
        (folder / name).write_bytes(raw)
        sums[name] = hashlib.md5(raw).hexdigest()
    monkeypatch.setattr(cifar, "FILES", sums)
    return tmp_path


def numbers(part):
    """The number of each image."""
    return part.x[:, 0, 0, :2].copy().view(">u2")[:, 0].tolist()


def test_the_seed_0_permutation_cuts_the_training_images(root):
    """The first 1,000 of seed 0's permutation validate, as in Rice et al.; the test batch keeps its order."""
    loaded = cifar10(root)
    places = np.random.RandomState(0).permutation(2000)
    assert numbers(loaded.val) == places[:1000].tolist()
    assert numbers(loaded.train) == places[1000:].tolist()
    assert loaded.train.y.tolist() == (places[1000:] % 10).tolist()
    assert numbers(loaded.test) == list(range(2000, 2400))
    assert loaded.train.x.shape == (1000, 3, 32, 32) and loaded.classes == CLASSES


def test_the_files_are_those_that_torchvision_checks():
    """Names and md5s are torchvision's own."""
    datasets = pytest.importorskip("torchvision.datasets")
    assert list(FILES.items()) == [tuple(f) for f in (*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list)]


def test_a_folder_without_cifar_says_what_is_expected_where_and_how_to_get_it(root):
    """The error names the folder, only the files that are missing, the command that fetches them, and --data."""
    folder = root / "cifar-10-batches-py"
    (folder / "data_batch_3").unlink()
    with pytest.raises(IncompleteError) as caught:
        cifar10(root)
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert str(folder) in message and "data_batch_3" in message and "data_batch_2" not in message
    assert f"bench fetch cifar10 --data {root}" in message and "--data" in message


def test_a_batch_that_is_not_the_published_file_is_refused(root):
    """One byte less, and the error names the file, its length and both md5s."""
    path = root / "cifar-10-batches-py" / "test_batch"
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError) as caught:
        cifar10(root)
    assert caught.value.exit_code == 5
    assert str(path) in str(caught.value) and f"{path.stat().st_size:,} bytes" in str(caught.value)
    assert md5 in str(caught.value)


def test_a_batch_of_python_2_is_read():
    """Old text, old arrays and the old name of NumPy's core give today's arrays."""
    batch = unpickle(PYTHON_2, Path("batch"))
    assert batch["labels"] == [3, 9]
    assert batch["data"].dtype == np.uint8 and batch["data"].tolist() == [[0, 1, 2], [3, 4, 5]]


class Evil:
    """An object whose pickle runs code."""

    def __reduce__(self):
        return builtins.exec, ("raise SystemExit('the pickle ran')",)


def test_a_pickle_that_would_run_code_does_not_run(tmp_path):
    """Even with the right md5, a batch that names a function is refused before the function is called."""
    raw = pickle.dumps({"data": Evil()}, protocol=2)
    (tmp_path / "batch").write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"batch: the pickle asks for __builtin__\.exec"):
        read_batch(tmp_path / "batch", hashlib.md5(raw).hexdigest())


def test_a_damaged_pickle_is_named():
    """Half a pickle, and a pickle of something else, are errors with the file's name."""
    with pytest.raises(IntegrityError, match="batch is not a whole pickle"):
        unpickle(PYTHON_2[:-9], Path("batch"))
    with pytest.raises(IntegrityError, match="batch holds a list; expected a dict"):
        unpickle(pickle.dumps([1]), Path("batch"))


@pytest.fixture
def root_100(tmp_path, monkeypatch):
    """The three files of CIFAR-100, made up: 1,200 training and 30 test images in 20 coarse and 100 fine classes."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()

    def batch(count):
        data = np.zeros((count, 3072), np.uint8)
        data[:, :2] = np.arange(count, dtype=">u2").view(np.uint8).reshape(-1, 2)
        fine = [i % 100 for i in range(count)]
        return {"data": data, "fine_labels": fine, "coarse_labels": [f // 5 for f in fine], "filenames": ["x"] * count}

    names = {"fine_label_names": [f"fine {i}" for i in range(100)], "coarse_label_names": ["coarse"] * 20}
    sums = {}
    for name, content in (("train", batch(1200)), ("test", batch(30)), ("meta", names)):
        raw = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(raw)
        sums[name] = hashlib.md5(raw).hexdigest()
    monkeypatch.setattr(cifar, "FILES_100", sums)
    return tmp_path


def test_cifar100_has_the_fine_labels(root_100):
    """100 classes with the names of the file `meta`; 1,000 of the training images validate, as for CIFAR-10."""
    loaded = cifar.cifar100(root_100)
    places = np.random.RandomState(0).permutation(1200)
    assert loaded.classes == tuple(f"fine {i}" for i in range(100))
    assert numbers(loaded.val) == places[:1000].tolist() and numbers(loaded.train) == places[1000:].tolist()
    assert loaded.val.y.tolist() == (places[:1000] % 100).tolist()
    assert loaded.test.y.tolist() == list(range(30)) and loaded.name == "cifar100"


def test_cifar100_is_checked_as_cifar10_is(root_100):
    """Missing files are named with the command; a damaged one with both md5s."""
    folder = root_100 / "cifar-100-python"
    (folder / "meta").write_bytes((folder / "meta").read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="meta is not the published file"):
        cifar.cifar100(root_100)
    (folder / "meta").unlink()
    with pytest.raises(IncompleteError, match=r"expected meta there[^~]*bench fetch cifar100 --data"):
        cifar.cifar100(root_100)


def test_the_archives_are_those_that_torchvision_downloads():
    """Names and md5s of the archives and of the files of CIFAR-100 are torchvision's own."""
    datasets = pytest.importorskip("torchvision.datasets")
    for ours, theirs in ((cifar.DOWNLOAD, datasets.CIFAR10), (cifar.DOWNLOAD_100, datasets.CIFAR100)):
        assert (ours.file, ours.checksum) == (theirs.filename, f"md5:{theirs.tgz_md5}") and theirs.url in ours.urls
    meta = datasets.CIFAR100.meta
    theirs = [*datasets.CIFAR100.train_list, *datasets.CIFAR100.test_list, [meta["filename"], meta["md5"]]]
    assert list(cifar.FILES_100.items()) == [tuple(f) for f in theirs]
