import hashlib
import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from bench import IncompleteError, IntegrityError, UsageError
from bench.fetch import obtain_all
from data import imagenet as module
from data.imagenet import SUPER_CLASSES, imagenet, restricted, restricted_imagenet

COUNT = 400  # classes: enough for the last super-class
WNIDS = [f"n{10_000_000 + i}" for i in range(COUNT)]


def jpeg(red):
    """A JPEG of 40x32 in one colour, all but exact."""
    raw = io.BytesIO()
    Image.new("RGB", (40, 32), (red, 0, 0)).save(raw, format="JPEG", quality=100)
    return raw.getvalue()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder layout with one validation image a class, its number 7 times its class (mod 400) and 1."""
    monkeypatch.setattr(module, "WNIDS", hashlib.sha256("\n".join(WNIDS).encode()).hexdigest())
    monkeypatch.setattr(module, "COUNTS", {"train": COUNT, "val": COUNT})
    monkeypatch.setattr(module, "VAL", 100)
    monkeypatch.setattr(module, "RESTRICTED_VAL", 20)
    reds = [jpeg(k) for k in range(0, 250, 10)]
    for label, wnid in enumerate(WNIDS):
        path = tmp_path / "imagenet" / "val" / wnid / f"ILSVRC2012_val_{label * 7 % COUNT + 1:08}.JPEG"
        path.parent.mkdir(parents=True)
        path.write_bytes(reds[label % 25])
    return tmp_path


@pytest.fixture
def trained(root):
    """The same with one training image a class."""
    red = jpeg(99)
    for wnid in WNIDS:
        path = root / "imagenet" / "train" / wnid / f"{wnid}_1.JPEG"
        path.parent.mkdir(parents=True)
        path.write_bytes(red)
    return root


def test_the_validation_images_stand_in_the_order_of_their_numbers(root):
    """Which mixes the classes; labels are the places of the sorted WordNet ids; nothing is trained on unasked."""
    loaded = imagenet(root, size=16)
    assert (loaded.test.y * 7 % COUNT).tolist() == list(range(COUNT))
    assert np.abs(loaded.test.x[:, 0, 8, 8].astype(int) - loaded.test.y % 25 * 10).max() <= 2
    assert loaded.test.x.shape == (COUNT, 3, 16, 16) and (len(loaded.train), len(loaded.val)) == (0, 0)
    assert len(loaded.classes) == 1000 and (loaded.classes[0], loaded.classes[999]) == ("tench", "toilet tissue")


def test_training_images_are_prepared_where_they_are_asked_for(trained):
    """The first of the seed-0 permutation validate; the cut is that of the test images."""
    loaded = imagenet(trained, size=16, train=True)
    places = np.random.RandomState(0).permutation(COUNT)
    assert loaded.val.y.tolist() == places[:100].tolist() and loaded.train.y.tolist() == places[100:].tolist()
    assert loaded.train.known and loaded.train.x.shape == (300, 3, 16, 16)


def test_the_usual_cut_is_256_to_224(root):
    """The scale follows the size, unless it is given."""
    assert [module._crop(size, 0, "bilinear").resize for size in (224, 64, 299)] == [256, 73, 342]
    with pytest.raises(UsageError, match="size=224, resize=200"):
        imagenet(root, resize=200)


def test_restricted_imagenet_has_the_nine_super_classes(trained):
    """Dog is 151 to 268, and so on, both ends included; other classes are left out."""
    loaded = restricted_imagenet(trained, size=16, train=True)
    assert loaded.classes == ("dog", "cat", "frog", "turtle", "bird", "primate", "fish", "crab", "insect")
    assert np.bincount(loaded.test.y).tolist() == [118, 5, 3, 5, 21, 18, 9, 4, 20]
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (183, 20, 203)
    ends = restricted([(label, label) for label in (150, 151, 268, 269, 281, 300, 319, 320)])
    assert ends == [(151, 0), (268, 0), (281, 1), (300, 8), (319, 8)]
    assert all(first <= last for first, last in SUPER_CLASSES.values())


def test_robustbenchs_images_come_in_its_order(root, tmp_path, monkeypatch):
    """Its list is read from its distribution; an image that is not there is named."""
    real = np.array(module.distribution(module.SUBSET[0]).locate_file(module.SUBSET[1]).read_text().split())
    assert len(set(real)) == 5000 and real[0] == "n09468604/ILSVRC2012_val_00015253.JPEG"

    class Made:
        def locate_file(self, _inside):
            return tmp_path / "list.txt"

    monkeypatch.setattr(module, "distribution", lambda _name: Made())
    names = [path.relative_to(root / "imagenet" / "val") for path in (root / "imagenet" / "val").rglob("*.JPEG")]
    for i in range(5000 - COUNT):
        names.append(names[i].with_name(f"ILSVRC2012_val_{10_000 + i:08}.JPEG"))
        (root / "imagenet" / "val" / names[-1]).hardlink_to(root / "imagenet" / "val" / names[i % COUNT])
    (tmp_path / "list.txt").write_text("\n".join(map(str, names)))
    loaded = imagenet(root, size=8, subset="robustbench-5000")
    assert loaded.name == "imagenet-robustbench-5000"
    assert loaded.test.y.tolist() == [WNIDS.index(name.parts[0]) for name in names]
    (root / "imagenet" / "val" / names[17]).unlink()
    with pytest.raises(IncompleteError, match=f"1 of RobustBench's 5,000 images are not there, .*{names[17].name}"):
        imagenet(root, size=9, subset="robustbench-5000")
    (tmp_path / "list.txt").write_text("../../etc/passwd")
    with pytest.raises(IntegrityError, match="has 1 images; expected 5,000 of ImageNet's"):
        imagenet(root, size=9, subset="robustbench-5000")


def test_the_classes_are_those_of_ilsvrc_2012():
    """The hash that folders are checked by is that of timm's and RobustBench's lists."""
    inside = module.distribution("timm").locate_file("timm/data/_info/imagenet_synsets.txt")
    assert hashlib.sha256("\n".join(inside.read_text().split()).encode()).hexdigest() == module.WNIDS


def test_what_is_not_imagenet_is_named(root, tmp_path):
    """Other classes, too few images, a damaged one, and nothing at all with the way to get it."""
    path = next((root / "imagenet" / "val" / WNIDS[5]).iterdir())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IntegrityError, match="is not a whole image file"):
        imagenet(root, size=16)
    path.unlink()
    with pytest.raises(IntegrityError, match="has 399 images; expected 400"):
        imagenet(root, size=16)
    path.parent.rmdir()
    with pytest.raises(IntegrityError, match=r"399 class folders that are not ImageNet's 1,000.*folder\(path=…\)"):
        imagenet(root, size=16)
    with pytest.raises(IncompleteError) as caught:
        imagenet(tmp_path / "nowhere")
    message = str(caught.value)
    assert "nowhere/imagenet/val" in message and "https://image-net.org" in message
    assert "--from-file ILSVRC2012_devkit_t12.tar.gz --from-file ILSVRC2012_img_val.tar" in message


def tar(path, members, mode="w"):
    """A tar of (name, bytes)."""
    with tarfile.open(path, mode) as packed:
        for name, raw in members:
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            packed.addfile(info, io.BytesIO(raw))
    return path


def kit(path, wnids, labels):
    """The development kit: its own number of each class, and those of the validation images."""
    numbers = np.random.RandomState(0).permutation(len(wnids)) + 1  # not the sorted places
    synsets = np.zeros(len(wnids) + 1, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    for i, (number, wnid) in enumerate(zip([*numbers, 1001], [*wnids, "n00001740"], strict=True)):
        synsets[i] = (number, wnid, "thing")
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{numbers[label]}\n" for label in labels).encode()
    inside = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth}
    return tar(path, [(f"ILSVRC2012_devkit_t12/data/{name}", raw) for name, raw in inside.items()], "w:gz")


@pytest.fixture
def official(trained, tmp_path):
    """The official three files, made up of the images of `trained`, with their own md5s."""
    home = tmp_path / "official"
    home.mkdir()
    val = sorted((trained / "imagenet" / "val").rglob("*.JPEG"), key=lambda path: path.name)
    kit(home / "ILSVRC2012_devkit_t12.tar.gz", WNIDS, [WNIDS.index(path.parent.name) for path in val])
    tar(home / "ILSVRC2012_img_val.tar", [(path.name, path.read_bytes()) for path in val])
    inner = []
    for path in sorted((trained / "imagenet" / "train").rglob("*.JPEG")):
        tar(home / "inner", [(path.name, path.read_bytes())])
        inner.append((f"{path.parent.name}.tar", (home / "inner").read_bytes()))
    (home / "inner").unlink()
    tar(home / "ILSVRC2012_img_train.tar", inner)
    downloads = tuple(
        module.PublishedFile(
            d.file, f"md5:{hashlib.md5((home / d.file).read_bytes()).hexdigest()}", into=d.into, unpack=d.unpack
        )
        for d in imagenet.downloads
    )
    return home, downloads


def test_the_official_files_become_the_folder_layout(trained, official, tmp_path):
    """From the three tars come the same parts as from the folders that they were made of."""
    home, downloads = official
    before, there = imagenet(trained, size=8, train=True), tmp_path / "fresh"
    obtain_all("imagenet", downloads, there, [home], lambda _line: None, "")
    after = imagenet(there, size=8, train=True)
    for name in ("train", "val", "test"):
        assert getattr(after, name).hash == getattr(before, name).hash


def test_the_kit_is_needed_for_the_validation_images(official, tmp_path):
    """Alone they have no labels: the error names the file to give too; with it in place they go in later."""
    home, downloads = official
    with pytest.raises(IncompleteError, match="--from-file ILSVRC2012_devkit_t12"):
        obtain_all("imagenet", downloads, tmp_path / "x", [home / "ILSVRC2012_img_val.tar"], lambda _line: None, "")
    for name in ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_val.tar"):
        obtain_all("imagenet", downloads, tmp_path / "x", [home / name], lambda _line: None, "")
    assert len(imagenet(tmp_path / "x", size=8).test) == COUNT


@pytest.mark.parametrize("name", ["../../evil.JPEG", "ILSVRC2012_val_00000003.JPEG", "ILSVRC2012_val_00000000.JPEG"])
def test_a_validation_image_of_another_name_is_refused(tmp_path, name):
    """No path leads out, and no number has no label."""
    (tmp_path / "imagenet").mkdir()
    kit(tmp_path / "imagenet" / "ILSVRC2012_devkit_t12.tar.gz", WNIDS[:2], [0, 1])
    with pytest.raises(IntegrityError, match="expected ILSVRC2012_val_00000001"):
        module.unpack_val(tar(tmp_path / "bad.tar", [(name, b"")]), tmp_path / "into", tmp_path)


def test_a_training_archive_of_other_names_is_refused(tmp_path):
    """Neither the outer nor the inner tar can lead out."""
    tar(tmp_path / "inner.tar", [("../../evil.JPEG", b"")])
    for outer in ("n01440764.tar", "../n01440764.tar"):
        with pytest.raises(IntegrityError, match="expected n01440764"):
            module.unpack_train(
                tar(tmp_path / "bad.tar", [(outer, (tmp_path / "inner.tar").read_bytes())]), tmp_path / "into", tmp_path
            )
    (tmp_path / "text").write_text("no tar" * 999)
    with pytest.raises(IntegrityError, match="not a whole archive"):
        module.unpack_train(tmp_path / "text", tmp_path / "into", tmp_path)


def test_a_kit_that_is_none_is_named(tmp_path):
    """A tar without the two files."""
    with pytest.raises(IntegrityError, match="is not the development kit"):
        module.read_devkit(tar(tmp_path / "kit.tar.gz", [("x.mat", b"")], "w:gz"))


def test_the_files_are_those_that_torchvision_checks():
    """Names and md5s of the three archives are torchvision's own."""
    theirs = pytest.importorskip("torchvision.datasets.imagenet").ARCHIVE_META
    assert [(d.file, d.checksum) for d in imagenet.downloads] == [
        (name, f"md5:{md5}") for name, md5 in (theirs["devkit"], theirs["val"], theirs["train"])
    ]
