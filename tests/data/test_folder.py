import os

import numpy as np
import pytest
from PIL import Image

from bench import IntegrityError, UsageError
from data.folder import folder


def draw(path, grey, size=(8, 8)):
    """An image of one grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey,) * 3).save(path)


@pytest.fixture
def home(tmp_path):
    """`cat` and `dog`: 30 training and 4 test images each; a grey below 100 is a cat's."""
    for label, name in enumerate(("cat", "dog")):
        for i in range(30):
            draw(tmp_path / "pets" / "train" / name / f"{i:02}.png", 100 * label + i)
        for i in range(4):
            draw(tmp_path / "pets" / "test" / name / "deep" / f"{i}.PNG", 100 * label + 50 + i)
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "pets" / "train" / ".hidden").mkdir()
    return tmp_path / "pets"


def greys(part):
    """The grey of each image."""
    return part.x[:, 0, 0, 0].tolist()


def test_folders_are_classes(home, tmp_path):
    """Sorted names are numbered; a tenth of the training images validates; every image comes once."""
    loaded = folder(tmp_path / "data", path=str(home))
    assert loaded.classes == ("cat", "dog") and loaded.name == "folder:pets"
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (54, 6, 8)
    for part in (loaded.train, loaded.val, loaded.test):
        assert [g // 100 for g in greys(part)] == part.y.tolist() and part.x.shape[1:] == (3, 8, 8)
    assert sorted(greys(loaded.train) + greys(loaded.val)) == [*range(30), *range(100, 130)]
    places = np.random.RandomState(0).permutation(60)
    assert greys(loaded.val) == [(p if p < 30 else 70 + p) for p in places[:6]]


def test_the_first_test_images_are_of_all_classes(home, tmp_path):
    """They stand in the order of the seed-0 permutation, not by class."""
    places = np.random.RandomState(0).permutation(8)
    assert folder(tmp_path, path="pets").test.y.tolist() == [p // 4 for p in places]


def test_val_alone_is_the_test_part_and_beside_test_it_validates(home, tmp_path):
    """As ImageNet's users mean it, and as everyone else does."""
    for i in range(3):
        draw(home / "val" / "dog" / f"{i}.png", 200 + i)
    loaded = folder(tmp_path, path="pets")
    assert sorted(greys(loaded.val)) == [200, 201, 202] and len(loaded.train) == 60 and len(loaded.test) == 8
    (home / "test").rename(tmp_path / "elsewhere")
    loaded = folder(tmp_path, path="pets")
    assert sorted(greys(loaded.test)) == [200, 201, 202] and len(loaded.val) == 6


def test_size_scales_and_cuts_the_middle(home, tmp_path):
    """Images of any size become square; one channel makes them grey."""
    draw(home / "train" / "cat" / "00.png", 7, (30, 20))
    with pytest.raises(IntegrityError, match=r"00\.png has 30x20 pixels; expected 8x8"):
        folder(tmp_path, path="pets")
    loaded = folder(tmp_path, path="pets", size=16, channels=1)
    assert loaded.train.x.shape == (54, 1, 16, 16)
    assert 7 in greys(loaded.train) + greys(loaded.val)
    draw(home / "test" / "cat" / "deep" / "0.PNG", 7, (30, 20))
    with pytest.raises(UsageError, match=r"has 30x20 pixels; expected square images, or folder\(…, size=…\)"):
        folder(tmp_path, path="pets")


def test_a_changed_image_makes_another_data_set(home, tmp_path):
    """What was decoded before is not taken for what lies there now."""
    before = folder(tmp_path, path="pets")
    draw(home / "test" / "cat" / "deep" / "0.PNG", 99)
    os.utime(home / "test" / "cat" / "deep" / "0.PNG", (1, 1))
    after = folder(tmp_path, path="pets")
    assert before.test.hash != after.test.hash and 99 in greys(after.test) and before.train.hash == after.train.hash


def test_without_training_images_it_can_be_examined(home, tmp_path):
    """train=False takes the test folder alone; else the error says so."""
    (home / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"has no folder train/; folder\(train=False\)"):
        folder(tmp_path, path="pets")
    loaded = folder(tmp_path, path="pets", train=False)
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (0, 0, 8)


def test_mistakes_are_named(home, tmp_path):
    """No such folder, an unknown class, one class, no images, no test folder, a broken image."""
    with pytest.raises(UsageError, match=r"no such folder; looked in .*did you mean 'pets'"):
        folder(tmp_path, path="pet")
    (home / "test" / "dgo").mkdir()
    with pytest.raises(UsageError, match="dgo is no class of the training images; did you mean 'dog'"):
        folder(tmp_path, path="pets")
    (home / "test" / "dgo").rmdir()
    (home / "test" / "dog" / "deep" / "0.PNG").write_text("<html>")
    with pytest.raises(IntegrityError, match=r"0\.PNG is not a whole image file"):
        folder(tmp_path, path="pets")
    (home / "test" / "cat" / "deep" / "0.PNG").write_text("<html>")
    with pytest.raises(UsageError, match=r"0\.PNG is not an image file that Pillow reads"):
        folder(tmp_path, path="pets")
    (home / "test").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"has no folder test/ \(or val/\)"):
        folder(tmp_path, path="pets")
    (home / "test" / "cat").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"holds no images; expected files ending in \.jpg"):
        folder(tmp_path, path="pets")
    (tmp_path / "one" / "test" / "only").mkdir(parents=True)
    with pytest.raises(UsageError, match="has 1 class folders; expected two or more"):
        folder(tmp_path, path="one", train=False)
