import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import IncompleteError, IntegrityError
from data import tiny_imagenet as module
from data.tiny_imagenet import tiny_imagenet_200

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "tiny-imagenet-200"
WNIDS = [f"n{10_000_000 + 7 * i}" for i in range(200)]


def write(path, value, mode="RGB"):
    """An image of 64x64 of one grey, losslessly whatever its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (64, 64), value if mode == "L" else (value,) * 3).save(path, format="PNG")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The publication's layout with two images a class to train on and one to test; their greys tell them apart."""
    monkeypatch.setattr(module, "COUNTS", {"train": 400, "val": 200})
    monkeypatch.setattr(module, "VAL", 40)
    folder = tmp_path / "tiny-imagenet-200"
    rows = []
    for i, wnid in enumerate(WNIDS):
        for j in range(2):
            write(folder / "train" / wnid / "images" / f"{wnid}_{j}.JPEG", i, "L" if j else "RGB")
        number = (i * 77) % 200
        write(folder / "val" / "images" / f"val_{number}.JPEG", i)
        rows.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(rows))
    (folder / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    (folder / "words.txt").write_text("".join(f"{wnid}\tthing {i}\n" for i, wnid in enumerate(WNIDS)))
    return tmp_path


def greys(part):
    """The grey of each image, which must be the same in all its pixels."""
    values = part.x.reshape(len(part), -1)
    assert (values == values[:, :1]).all()
    return values[:, 0].tolist()


def test_images_labels_and_names_belong_together(root):
    """Classes are numbered by sorted WordNet id; test images stand by number; grey files become colour."""
    loaded = tiny_imagenet_200(root)
    assert greys(loaded.test) == loaded.test.y.tolist()
    assert [n * 77 % 200 for n in loaded.test.y.tolist()] == list(range(200))
    assert loaded.classes[:2] == ("thing 0", "thing 1") and loaded.test.x.shape == (200, 3, 64, 64)
    for part in (loaded.train, loaded.val):
        assert greys(part) == part.y.tolist()
    places = np.random.RandomState(0).permutation(400)
    assert loaded.val.y.tolist() == (places[:40] // 2).tolist()
    assert loaded.train.y.tolist() == (places[40:] // 2).tolist()


def test_val_in_class_folders_is_the_same_set(root):
    """Many have sorted the validation images into folders; order and labels stay the official ones."""
    official = tiny_imagenet_200(root, train=False).test.hash
    val = root / "tiny-imagenet-200" / "val"
    for row in (val / "val_annotations.txt").read_text().splitlines():
        name, wnid = row.split("\t")[:2]
        (val / wnid / "images").mkdir(parents=True)
        (val / "images" / name).rename(val / wnid / "images" / name)
    (val / "images").rmdir()
    (val / "val_annotations.txt").unlink()
    for file in (root / "prepared").rglob("*.*"):
        file.unlink()
    assert tiny_imagenet_200(root, train=False).test.hash == official


def test_without_the_training_images_it_can_be_examined(root):
    """train=False loads the test part alone; else the error says so, and how to fetch them."""
    (root / "tiny-imagenet-200" / "train").rename(root / "elsewhere")
    loaded = tiny_imagenet_200(root, train=False)
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (0, 0, 200)
    with pytest.raises(IncompleteError) as caught:
        tiny_imagenet_200(root)
    assert "bench fetch tiny-imagenet-200 --data" in str(caught.value) and "train=False" in str(caught.value)


def test_a_set_that_is_not_whole_is_named(root):
    """An image less, an image cut short, a class that nobody knows, and nothing at all."""
    folder = root / "tiny-imagenet-200"
    path = folder / "val" / "images" / "val_5.JPEG"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(IntegrityError, match=r"lacks val_5\.JPEG.*expected 200, 1 a class"):
        tiny_imagenet_200(root)
    path.write_bytes(whole[:60])
    with pytest.raises(IntegrityError, match=r"val_5\.JPEG is not a whole image file"):
        tiny_imagenet_200(root)
    assert not list((root / "prepared").glob("tiny*"))
    path.write_bytes(whole)
    (folder / "train" / WNIDS[3] / "images" / f"{WNIDS[3]}_1.JPEG").unlink()
    with pytest.raises(IntegrityError, match="has 399 images; expected 400, 2 a class"):
        tiny_imagenet_200(root)
    (folder / "wnids.txt").write_text("n1\nn2")
    with pytest.raises(IntegrityError, match="names 2 classes, 2 of them not in words"):
        tiny_imagenet_200(root)
    with pytest.raises(IncompleteError, match=r"wnids\.txt"):
        tiny_imagenet_200(root / "nowhere")


@pytest.mark.shared
def test_the_real_validation_images_have_fifty_a_class(tmp_path):
    """The 10,000 official images, 50 of each of 200 classes; their pixels' hash is the one that records name."""
    with lzma.open(SHARED / "val.tar.xz") as packed, tarfile.open(fileobj=packed) as tar:
        tar.extractall(tmp_path, filter="data")
    loaded = tiny_imagenet_200(tmp_path, train=False)
    assert np.bincount(loaded.test.y).tolist() == [50] * 200
    assert loaded.classes[0] == "goldfish, Carassius auratus" and loaded.test.x.shape == (10_000, 3, 64, 64)
    assert loaded.test.hash == "e199d27bf2d89117ea6dc29c28710930f7aff62a2029b283c6462f3cef3d46d7"
