"""Records and bundles as one file: the same bytes each time, whole elsewhere, and nothing else is ever taken in."""

import io
import json
import tarfile
from dataclasses import replace

import pytest

from bench.errors import IncompleteError, IntegrityError, UsageError
from bench.packing import pack, unpack
from bench.records import Record
from bench.verify import Datasets, verify
from tests.bench.test_verify import flip, forge, record
from tests.conftest import TINY


def files(root):
    """Every file below a folder."""
    return {f.relative_to(root): f.read_bytes() for f in root.rglob("*") if f.is_file()}


@pytest.fixture
def there(here, tmp_path):
    """An empty place."""
    return replace(here, ledger_root=tmp_path / "there" / "ledger", store_root=tmp_path / "there" / "store")


def test_there_and_back(bench, here, there, tmp_path):
    """What was packed verifies elsewhere; packed again it is the same file; taken in twice nothing is new."""
    file = tmp_path / "a.tar"
    done = pack(here.ledger, here.store, file)
    assert done["records"] == 6 and unpack(file, there.ledger, there.store)["new"] == done["files"]
    assert unpack(file, there.ledger, there.store)["new"] == 0
    assert all(c.holds for c in verify(there, Datasets(there))) and files(there.ledger_root) == files(here.ledger_root)
    pack(there.ledger, there.store, tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_bytes() == file.read_bytes()
    found = json.loads(bench("verify", "a.tar", "--plugin", str(TINY), "--store", "none", "--json").stdout)
    assert (found["records"], found["hold"], found["attested"]) == (6, 6, 0)


def test_a_part_of_it(bench, here):
    """Some records alone, and without their weights: those come from the store of whoever checks."""
    one = record(here, "slow")
    assert bench("bundle", "pack", "one.tar", "--record", one.key[:12], "--no-weights").returncode == 0
    words = ("verify", "one.tar", "--plugin", str(TINY), "--json")
    assert json.loads(bench(*words).stdout)["hold"] == 1
    assert bench(*words, "--store", "none").returncode == 4
    assert bench("bundle", "pack", "no.tar", "--record", "0000").returncode == 2
    done = bench("bundle", "unpack", "one.tar", "--ledger", "new", "--store", "other", "--json")
    assert json.loads(done.stdout)["records"] == 1
    documents = list(replace(here, ledger_root=here.ledger_root.parent / "new").ledger.all())
    assert [d.key for d in documents if isinstance(d, Record)] == [one.key]
    assert sum(d.schema_ == "rampart/training-1" for d in documents) == 1


def test_damage_is_not_packed(here, tmp_path):
    """A damaged or missing file is named, and no file is left."""
    one = record(here, "slow")
    flip(here.store.path(one.bundle))
    with pytest.raises(IntegrityError, match=one.bundle):
        pack(here.ledger, here.store, tmp_path / "a.tar")
    here.store.path(one.bundle).unlink()
    with pytest.raises(IncompleteError, match=one.bundle):
        pack(here.ledger, here.store, tmp_path / "a.tar")
    assert not list(tmp_path.glob("*a.tar*")) and not list(tmp_path.glob(".*"))
    with pytest.raises(UsageError, match="no record"):
        pack(replace(here, ledger_root=tmp_path / "none").ledger, here.store, tmp_path / "a.tar")


@pytest.mark.parametrize("place", range(1, 20))
def test_any_flipped_byte(here, there, tmp_path, place):
    """A byte of the content of any member: exit code 5, and nothing is written; what tar pads with is no content."""
    file = tmp_path / "a.tar"
    pack(here.ledger, here.store, file)
    content = bytearray(file.read_bytes())
    at = len(content) * place // 20
    content[at] ^= 1
    file.write_bytes(content)
    try:
        unpack(file, there.ledger, there.store)
    except (IntegrityError, IncompleteError):
        assert not there.ledger_root.exists() and not there.store_root.exists()
    else:
        assert files(there.ledger_root) == files(here.ledger_root)


def tar(tmp_path, *members):
    """A tar of these members: (name, content, changes)."""
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as odd:
        for name, content, changes in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in changes.items():
                setattr(member, field, value)
            odd.addfile(member, io.BytesIO(content))
    return path


def test_tricks(here, there, tmp_path):
    """Names that lead elsewhere, links, devices, other contents, other folders, a whole ledger spoilt by one member."""
    one = record(here, "slow")
    (file,) = (here.ledger_root / one.key).glob("*.json")
    name, content = f"ledger/{one.key}/{file.name}", file.read_bytes()
    link = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0}
    odd = [
        [("../../x.json", b"{}", {})], [("/tmp/x", b"", {})], [("ledger/x/../../y", b"", {})],
        [(name, b"", link)], [(name, b"", {**link, "type": tarfile.LNKTYPE})], [(name, b"", {"type": tarfile.CHRTYPE})],
        [(name, content + b" ", {})], [(f"ledger/{'0' * 64}/{file.name}", content, {})],
        [(f"store/ab/{file.stem}.safetensors", content, {})], [(f"store/{file.stem[:2]}/{file.name}", content, {})],
        [(name, content, {}), ("more", b"", {})], [(name, content, {"type": tarfile.GNUTYPE_SPARSE})],
    ]  # fmt: skip
    for members in odd:
        with pytest.raises(IntegrityError):
            unpack(tar(tmp_path, *members), there.ledger, there.store)
        assert not there.ledger_root.exists() and not there.store_root.exists()
    for junk in (b"", b"junk" * 200, tar(tmp_path, (name, content, {})).read_bytes()[:700]):
        (tmp_path / "junk.tar").write_bytes(junk)
        with pytest.raises(IntegrityError):
            unpack(tmp_path / "junk.tar", there.ledger, there.store)
    assert unpack(tar(tmp_path, (name, content, {})), there.ledger, there.store)["records"] == 1


def test_compressed_files_are_refused(here, there, tmp_path):
    """No stream that could grow without bound is ever unpacked."""
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    with pytest.raises(IntegrityError):
        unpack(tmp_path / "a.tar.gz", there.ledger, there.store)


def test_a_forged_record_travels_and_fails(bench, here):
    """Packing checks names, not claims; verifying what was packed finds the claim."""
    one = record(here, "slow")
    forge(here, one, fell=one.fell[1:])
    assert bench("bundle", "pack", "a.tar").returncode == 0
    assert bench("verify", "a.tar", "--plugin", str(TINY)).returncode == 5
