import gzip
import math
import struct
from pathlib import Path

import numpy as np
import pytest

from bench import IncompleteError, IntegrityError
from data.mnist import FASHION, FILES, MNIST, fashion_mnist, mnist, read_idx

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "mnist"


def idx(shape, values=None):
    """An idx file of this shape, of zeros unless told."""
    body = bytes(math.prod(shape)) if values is None else values.astype(np.uint8).tobytes()
    return struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape) + body


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with files of MNIST's shapes; labels count 0..9 and the first pixels hold the image's number."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, shape in FILES.items():
        values = np.arange(shape[0]) % 10
        if len(shape) == 3:
            values = np.zeros(shape, np.uint8)
            values[:, 0, :2] = np.arange(shape[0], dtype=">u2").view(np.uint8).reshape(-1, 2)
        packed = gzip.compress(idx(shape, values), compresslevel=1)
        (folder / f"{name}.gz").write_bytes(packed)
    return root


def test_the_seed_0_permutation_cuts_the_training_images(root):
    """The first 1,000 of RandomState(0)'s permutation of 60,000 validate; the test images keep their order."""
    loaded = mnist(root)
    places = np.random.RandomState(0).permutation(60_000)

    def numbers(part):
        return part.x[:, 0, 0, :2].copy().view(">u2")[:, 0].tolist()

    assert numbers(loaded.val) == places[:1000].tolist()
    assert numbers(loaded.train) == places[1000:].tolist()
    assert numbers(loaded.test) == list(range(10_000))
    assert loaded.val.y.tolist() == (places[:1000] % 10).tolist()
    assert loaded.classes == tuple("0123456789")


def test_an_unpacked_file_is_read_as_its_packed_one(tmp_path):
    """The same bytes with and without gzip give the same array."""
    values = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx((2, 3, 4), values))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx((2, 3, 4), values)))
    for name in ("plain", "packed.gz"):
        assert read_idx(tmp_path / name, (2, 3, 4)).tolist() == values.tolist()


def test_a_folder_without_mnist_says_what_is_expected_where_and_how_to_get_it(tmp_path):
    """The error names the folder, only the files that are missing, the command that fetches them, and --data."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(IncompleteError) as caught:
        mnist(tmp_path)
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert str(folder) in message and "train-images-idx3-ubyte" in message and "t10k-labels" not in message
    assert f"bench fetch mnist --data {tmp_path}" in message and "--data" in message


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (idx((5,)), "header (2049, 5); expected the idx header (2049, 6)"),
        (idx((6, 1)), "expected the idx header (2049, 6)"),
        (idx((6,))[:-1], "13 bytes; expected 14"),
        (idx((6,)) + b"\0", "15 bytes; expected 14"),
        (b"\0\0", "length of 2 bytes"),
    ],
)
def test_a_wrong_header_or_length_is_named(tmp_path, raw, expected):
    """A file of another shape, or one cut short, is never read as if it were whole."""
    (tmp_path / "labels").write_bytes(raw)
    with pytest.raises(IntegrityError) as caught:
        read_idx(tmp_path / "labels", (6,))
    assert "labels" in str(caught.value) and expected in str(caught.value)


def test_a_truncated_gzip_file_is_named(tmp_path):
    """A download that broke off is said to be one."""
    (tmp_path / "labels.gz").write_bytes(gzip.compress(idx((6,)))[:-5])
    with pytest.raises(IntegrityError, match=r"labels\.gz is not a whole gzip file"):
        read_idx(tmp_path / "labels.gz", (6,))


def test_fashion_mnist_lies_beside_mnist(root, tmp_path):
    """The same four files in a folder of their own, with the names of clothes; its absence is named as its own."""
    (tmp_path / "FashionMNIST").symlink_to(root / "MNIST")
    loaded = fashion_mnist(tmp_path)
    assert (loaded.name, loaded.classes[0], loaded.classes[9]) == ("fashion-mnist", "T-shirt/top", "Ankle boot")
    assert loaded.test.hash == mnist(root).test.hash
    with pytest.raises(IncompleteError, match="bench fetch fashion-mnist --data"):
        fashion_mnist(root)


def test_the_files_are_those_that_torchvision_downloads():
    """Names, md5s, mirrors and clothes are torchvision's own."""
    datasets = pytest.importorskip("torchvision.datasets")
    for ours, theirs in ((MNIST, datasets.MNIST), (FASHION, datasets.FashionMNIST)):
        assert [(d.file, d.checksum) for d in ours] == [(name, f"md5:{md5}") for name, md5 in theirs.resources]
        assert {mirror + d.file for mirror in theirs.mirrors for d in ours} <= {url for d in ours for url in d.urls}
    assert fashion_mnist.function.__globals__["CLOTHES"] == tuple(datasets.FashionMNIST.classes)


@pytest.mark.shared
def test_the_real_mnist_has_its_published_counts(tmp_path):
    """The test part holds 980, 1,135, … digits of each class, and the parts' hashes never change."""
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "raw").symlink_to(SHARED)
    loaded = mnist(tmp_path)
    assert np.bincount(loaded.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    both = np.concatenate([loaded.train.y, loaded.val.y])
    assert np.bincount(both).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert loaded.train.hash == "7284cd2e01d17808e6d43427228e7080bffe9f771d490e38d0c372a4990bdffd"
    assert loaded.val.hash == "c362bc6157f7a16709e8bf7eb619a95bc52e23a1606246ebe2b81df0fa6fb065"
    assert loaded.test.hash == "4718853ea946af656684509414983beff2e65cf414265c27966161014c003b8b"
