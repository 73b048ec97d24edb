import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import IncompleteError, IntegrityError, Part
from data import _prepared as module
from data._prepared import Crop, prepared

ROOT = Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path):
    """Twenty images of 40x32 in seeded noise, and their labels."""
    found = []
    for i in range(20):
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.RandomState(i).randint(0, 256, (32, 40, 3), np.uint8)).save(path)
        found.append((path, i % 3))
    return found


def test_a_prepared_part_is_the_part_in_memory(tmp_path, files):
    """Pixels, labels and hash are those of the same images held in memory; x is a file mapped into memory."""
    crop = Crop(24, 28)
    found = prepared(tmp_path, "set", crop, lambda: files)
    held = Part(np.stack([crop.read(path) for path, _ in files]), np.array([y for _, y in files]))
    assert found.known == found.hash == held.hash and (found.x == held.x).all() and found.y.tolist() == held.y.tolist()
    assert isinstance(found.x.base, np.memmap) or isinstance(found.x.base.base, np.memmap)
    assert found.x[np.array([3, 1])].shape == (2, 3, 24, 24) and not found.x.flags.writeable


def test_the_cut_is_torchvisions(files):
    """Resize and CenterCrop on Pillow's image, for both ways to interpolate, give the same pixels."""
    transforms = pytest.importorskip("torchvision.transforms")
    for how in ("bilinear", "bicubic"):
        theirs = transforms.Compose(
            [transforms.Resize(28, transforms.InterpolationMode(how)), transforms.CenterCrop(24), transforms.ToTensor()]
        )
        ours = Crop(24, 28, how).read(files[0][0])
        with Image.open(files[0][0]) as image:
            assert (theirs(image).numpy() == ours.astype(np.float32) / 255).all()


def test_it_is_decoded_once(tmp_path, files):
    """The second time nothing is looked up, and the images themselves may be gone."""
    first = prepared(tmp_path, "set", Crop(24, 28), lambda: files)
    for path, _ in files:
        path.unlink()

    def never():
        raise AssertionError

    assert prepared(tmp_path, "set", Crop(24, 28), never).hash == first.hash


def test_a_changed_file_is_noticed(tmp_path, files):
    """A copy with another date is read and found the same; a flipped pixel is found, and the file is made anew."""
    first = prepared(tmp_path, "set", Crop(24, 28), lambda: files)
    path = tmp_path / "prepared" / "set-24-28-bilinear" / "x.npy"
    os.utime(path, (1, 1))
    assert prepared(tmp_path, "set", Crop(24, 28), list).hash == first.hash
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    again = prepared(tmp_path, "set", Crop(24, 28), lambda: files)
    assert again.hash == first.hash and Part(again.x, again.y).hash == first.hash


@pytest.mark.parametrize("damage", ["half", "no card", "odd card", "no labels"])
def test_what_is_damaged_is_made_anew(tmp_path, files, damage):
    """Half a file, and files that are not there, are never loaded."""
    first = prepared(tmp_path, "set", Crop(24, 28), lambda: files)
    folder = tmp_path / "prepared" / "set-24-28-bilinear"
    if damage == "half":
        os.truncate(folder / "x.npy", 1000)
    elif damage == "odd card":
        (folder / "card.json").write_text(json.dumps(["hash"]))
    else:
        (folder / {"no card": "card.json", "no labels": "y.npy"}[damage]).unlink()
    assert prepared(tmp_path, "set", Crop(24, 28), lambda: files).hash == first.hash


def test_other_sizes_are_other_files(tmp_path, files):
    """Size, scale, interpolation and colours are in the name."""
    crops = [Crop(24, 28), Crop(20, 28), Crop(24, 30), Crop(24, 28, "bicubic"), Crop(24, 28, channels=1)]
    assert len({prepared(tmp_path, "set", crop, lambda: files).hash for crop in crops}) == 5


def test_images_of_another_size_and_no_images_are_named(tmp_path, files):
    """Without a scale they must have the size; the error names the first that has not, and nothing is left."""
    with pytest.raises(IntegrityError, match=r"0\.png has 40x32 pixels; expected 32x32"):
        prepared(tmp_path, "set", Crop(32), lambda: files)
    files[7][0].write_bytes(b"<html>not found</html>")
    with pytest.raises(IntegrityError, match=r"7\.png is not a whole image file"):
        prepared(tmp_path, "set", Crop(24, 28), lambda: files)
    assert [p.name for p in (tmp_path / "prepared").iterdir() if p.is_dir() and any(p.iterdir())] == []


def test_a_disk_without_room_is_named(tmp_path, files, monkeypatch):
    """Before the first image is decoded, with what is needed and what is free."""
    free = module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _folder: free)
    with pytest.raises(IncompleteError, match="needs 34,560 bytes, where 1,000 are free"):
        prepared(tmp_path, "set", Crop(24, 28), lambda: files)


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, files):
    """A write that fails is an error with exit code 4 (here the limit of a file's size plays the full disk)."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    try:
        with pytest.raises(IncompleteError, match="set-24-28-bilinear") as caught:
            prepared(tmp_path, "set", Crop(24, 28), lambda: files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert caught.value.exit_code == 4
    assert prepared(tmp_path, "set", Crop(24, 28), lambda: files).hash


def test_a_folder_that_only_others_may_write_is_read(tmp_path, files, monkeypatch):
    """What is prepared needs no lock: a data folder on a read-only disk serves."""
    first = prepared(tmp_path, "set", Crop(24, 28), lambda: files)
    monkeypatch.setattr(module, "locked", None)
    assert prepared(tmp_path, "set", Crop(24, 28), lambda: files).hash == first.hash


def test_two_at_once_prepare_once(tmp_path, files):
    """The second waits for the first and maps its file."""
    calls, found = [], []

    def slowly():
        calls.append(1)
        time.sleep(0.1)
        return files

    def work():
        found.append(prepared(tmp_path, "set", Crop(24, 28), slowly).hash)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(set(found)) == 1 and len(found) == 3


def test_a_killed_preparation_leaves_nothing_that_is_loaded(tmp_path, files):
    """After kill -9 in the middle the next call makes it whole, and clears what was left."""
    code = (
        "import sys, time; from pathlib import Path; from data._prepared import Crop, prepared\n"
        "class Slow(Crop):\n"
        "    def read(self, path): time.sleep(0.2); return super().read(path)\n"
        "files = [(Path(p), i % 3) for i, p in enumerate(sys.argv[2:])]\n"
        "prepared(Path(sys.argv[1]), 'set', Slow(24, 28), lambda: files)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), *(str(path) for path, _ in files)]
    with subprocess.Popen(command, cwd=ROOT) as killed:
        while not list((tmp_path / "prepared").glob(".set*/making-*/x.npy")):
            time.sleep(0.02)
            assert killed.poll() is None
        time.sleep(0.3)
        killed.kill()
    assert not (tmp_path / "prepared" / "set-24-28-bilinear").exists()
    assert len(prepared(tmp_path, "set", Crop(24, 28), lambda: files)) == 20
    assert sorted(p.name for p in (tmp_path / "prepared").iterdir() if p.is_dir()) == ["set-24-28-bilinear"]
