"""Archives write nothing outside their folder."""

import io
import tarfile
import zipfile

import pytest

from bench import IntegrityError, unpack
from bench.archives import settle, workshop


def tar_of(path, *members, kind=tarfile.REGTYPE):
    """A packed tar of (name, content), the first member of this kind."""
    with tarfile.open(path, "w:gz") as tar:
        for place, (name, content) in enumerate(members):
            info = tarfile.TarInfo(name)
            if place == 0 and kind != tarfile.REGTYPE:
                info.type, info.linkname = kind, "/etc/passwd"
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def zip_of(path, *members):
    """A zip of (name, content)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, what in members:
            packed.writestr(name, what)
    return path


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_files_come_out_as_they_went_in(tmp_path, make):
    """Folders are made, bytes are kept."""
    archive = make(tmp_path / "x", ("a/b/c", b"one"), ("d", bytes(100_000)))
    (tmp_path / "out").mkdir()
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/a/b/c").read_bytes() == b"one" and (tmp_path / "out/d").read_bytes() == bytes(100_000)


@pytest.mark.parametrize("make", [tar_of, zip_of])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil"])
def test_a_member_outside_the_folder_is_refused(tmp_path, make, name):
    """Neither dots, nor a full path, nor a backslash leads out."""
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError, match="would be written elsewhere"):
        unpack(make(tmp_path / "x", (name, b"evil")), tmp_path / "out")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_a_tar_are_refused(tmp_path, kind):
    """A link could lead out, and a device is no image."""
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError, match="'a', which is no plain file"):
        unpack(tar_of(tmp_path / "x", ("a", b""), ("a/b", b"evil"), kind=kind), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_link_in_a_zip_is_refused(tmp_path):
    """As in a tar."""
    info = zipfile.ZipInfo("a")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x", "w") as packed:
        packed.writestr(info, "/etc")
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError, match="'a', which is a link"):
        unpack(tmp_path / "x", tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_a_name_that_comes_twice_is_refused(tmp_path, make):
    """The second would replace the first unseen."""
    (tmp_path / "out").mkdir()
    archive = make(tmp_path / "x", ("a", b"one"), ("a", b"two"))
    with pytest.raises(IntegrityError, match="twice"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("make", [tar_of, zip_of])
@pytest.mark.parametrize("damage", ["half", "flipped", "empty", "text"])
def test_a_damaged_archive_is_named(tmp_path, make, damage):
    """Half of one, one with a flipped byte, an empty file and a text are not whole archives."""
    whole = make(tmp_path / "x", ("a", bytes(range(256)) * 1000)).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    raw = {"half": whole[: len(whole) // 2], "flipped": bytes(flipped), "empty": b"", "text": b"no archive" * 99}
    (tmp_path / "x").write_bytes(raw[damage])
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError, match="x is not a whole archive"):
        unpack(tmp_path / "x", tmp_path / "out")


def test_a_workshop_is_gone_afterwards(tmp_path):
    """Also after an error, and what a killed process left is cleared by the next."""
    (tmp_path / "making-old" / "deep").mkdir(parents=True)
    with pytest.raises(IsADirectoryError), workshop(tmp_path) as made:
        made.write_bytes(b"")
    assert not list(tmp_path.iterdir())


def test_settling_keeps_what_it_does_not_replace(tmp_path):
    """Folders are merged file by file."""
    for path, content in {"new/a/x": "1", "new/b": "2", "old/a/x": "0", "old/a/y": "3"}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    settle(tmp_path / "new", tmp_path / "old")
    found = {str(p.relative_to(tmp_path / "old")): p.read_text() for p in (tmp_path / "old").rglob("*") if p.is_file()}
    assert found == {"a/x": "1", "a/y": "3", "b": "2"}
