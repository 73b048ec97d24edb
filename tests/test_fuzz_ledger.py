"""Records, sidecars, bundles and baselines that were changed in any way: read, or refused by a clear error."""

import hashlib
import io
import json
import random
import re
import shutil
import tarfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from bench.exam import Cell, Training, digest
from bench.records import read_document
from tests.bench.ledgers import run_once
from tests.conftest import TINY
from tests.fuzzing import call, folder, often, spoilt_bytes, spoilt_json, tally

__all__ = ["tally"]
SEEDS = st.integers(0, 2**32)
READERS = (
    ("ledger", "ls"), ("ledger", "verify"), ("ledger", "verify", "--tensors"), ("ledger", "ls", "--attack", "slow"),
    ("ledger", "export", "out.csv"), ("ledger", "gc"), ("gate", "--record", "b.json"), ("ledger", "export",
    "o.csv", "--images"),
    ("bundle", "pack", "b.tar"), ("verify", "--plugin", str(TINY)), ("ledger", "merge", "ledger", "--ledger", "other"),
    ("plan", "--plugin", str(TINY), "--net", "tiny", "--defense", "quick", "--columns", "clean, slow", "-n", "40"),
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A real run's ledger and store, and what was made of them; all of it stays as it is."""
    root = run_once(tmp_path_factory.getbasetemp())
    aside = tmp_path_factory.mktemp("fuzzed")
    for name in ("ledger", "store"):
        shutil.copytree(root / name, aside / name)
    call(aside, "gate", "--record", "baseline.json", "--ledger", "ledger")
    call(aside, "bundle", "pack", "whole.tar", "--ledger", "ledger", "--store", "store")
    return aside


def forged(found):
    """The document's JSON, under a key that fits what it says now, where that can be known."""
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        if found["schema"] == "rampart/record-1":
            names = ("net", "weights", "test", "condition", "threat", "attack", "seed", "precision")
            found["key"] = Cell(**{n: found[n] for n in names}).key
        elif found["schema"] == "rampart/training-1":
            found["key"] = Training(**{n: found[n] for n in ("defense", "net", "train", "val", "threat", "seed")}).key
        elif found["schema"] in {"rampart/column-1", "rampart/exam-1"}:
            found["key"] = digest({k: v for k, v in found.items() if k not in {"schema", "key"}})
    return json.dumps(found).encode(errors="surrogatepass")


def put(root, content, was):
    """Write a document where its key and content say, or where it was; and its sidecar beside it."""
    key = was.parent.name
    with suppress(ValueError, KeyError, TypeError):
        said = json.loads(content)["key"]
        key = said if isinstance(said, str) and re.fullmatch("[0-9a-f]{64}", said) else key
    (root / key).mkdir(exist_ok=True)
    for sidecar in was.parent.glob("*.safetensors"):
        if key != was.parent.name:
            shutil.copy(sidecar, root / key)
    was.unlink()
    (root / key / f"{hashlib.sha256(content).hexdigest()}.json").write_bytes(content)


def documents(root):
    """Every document of the ledger, in a fixed order by what it is: keys of trainings differ from run to run."""
    return sorted(root.glob("*/*.json"), key=lambda p: (json.loads(p.read_bytes())["schema"], p.parent.name, p.name))


@given(st.data())
@often(1500, 40)
def test_a_changed_record_is_read_or_refused(made, data):
    """A document with other values, fields or bytes, under the hash of what it says now, before each command."""
    with folder() as here:
        shutil.copytree(made / "ledger", here / "ledger")
        (here / "store").symlink_to(made / "store")
        was = data.draw(st.sampled_from(documents(here / "ledger")))
        if data.draw(st.booleans()) or data.draw(st.booleans()):
            content = forged(data.draw(spoilt_json([was.read_text()])))
        else:
            content = spoilt_bytes(was.read_bytes(), data.draw(SEEDS))
        put(here / "ledger", content, was)
        words = data.draw(st.sampled_from(READERS))
        where = () if words[0] == "ledger" and "merge" in words else ("--ledger", "ledger")
        store = ("--store", "store") if words[0] in {"verify", "bundle", "plan"} or "--tensors" in words else ()
        call(here, *words, *where, *store, kind="records")


@given(st.data())
@often(100, 4)
def test_a_board_of_changed_records_is_made_without_them(made, data):
    """Publish shows what can be read, and ends with exit code 4 where something could not."""
    with folder() as here:
        shutil.copytree(made / "ledger", here / "ledger")
        was = data.draw(st.sampled_from(documents(here / "ledger")))
        put(here / "ledger", forged(data.draw(spoilt_json([was.read_text()]))), was)
        call(here, "publish", "--ledger", "ledger", "--site", "site", kind="boards")


@given(st.data())
@often(400, 12)
def test_a_changed_sidecar_is_read_or_refused(made, data):
    """Figures of other names, kinds or lengths, or any bytes, under a hash that the record names."""
    with folder() as here:
        shutil.copytree(made / "ledger", here / "ledger")
        (here / "store").symlink_to(made / "store")
        records = [p for p in documents(here / "ledger") if b"record-1" in p.read_bytes()]
        path = data.draw(st.sampled_from(records))
        record = json.loads(path.read_bytes())
        whole = (path.parent / f"{record['images']}.safetensors").read_bytes()
        rng = random.Random(data.draw(SEEDS))
        if rng.random() < 0.4:
            content = spoilt_bytes(whole, rng.random())
        else:
            arrays = load(whole)
            name = rng.choice(sorted(arrays))
            changes = {
                "shape": lambda a: a[None], "length": lambda a: a[:-1], "more": lambda a: np.concatenate([a, a]),
                "kind": lambda a: a.astype(rng.choice([np.int8, np.float64, np.uint8, bool])),
                "wild": lambda a: np.full_like(a, np.nan if a.dtype.kind == "f" else -1),
                "inf": lambda a: np.full_like(a, np.inf if a.dtype.kind == "f" else 2**31 - 1), "none": lambda a: a[:0],
            }  # fmt: skip
            arrays[name] = changes[rng.choice(sorted(changes))](arrays[name])
            if rng.random() < 0.3:
                arrays["more" if rng.random() < 0.5 else ""] = arrays.pop(name)
            content = save(arrays)
        record["images"] = hashlib.sha256(content).hexdigest()
        (path.parent / f"{record['images']}.safetensors").write_bytes(content)
        put(here / "ledger", json.dumps(record).encode(), path)
        words = data.draw(
            st.sampled_from([READERS[1], READERS[4], READERS[7], READERS[8], READERS[9], ("publish", "--site", "site")])
        )
        store = ("--store", "store") if words[0] in {"verify", "bundle"} else ()
        call(here, *words, "--ledger", "ledger", *store, kind="sidecars")


def repacked(content, rng):
    """A tar in which one member's content was changed, under a name that fits it or not; or one of another kind."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar]
    at = rng.randrange(len(members))
    member, inner = members[at]
    inner = spoilt_bytes(inner, rng.random())
    if rng.random() < 0.7:
        stem = member.name.rsplit("/", 1)[-1].partition(".")[0]
        member.name = member.name.replace(stem, hashlib.sha256(inner).hexdigest())
    else:
        member.name = rng.choice(
            ["../x.json", "/etc/x", "ledger", "", "a" * 300, member.name.upper(), f"{member.name}/"]
        )
    member.type = rng.choice([member.type] * 8 + [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.LNKTYPE])
    member.linkname = "/etc/passwd"
    members[at] = member, inner
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for one, held in members:
            one.size = len(held)
            tar.addfile(one, io.BytesIO(held))
    return made.getvalue()


def redrawn(ledger, store, rng):
    """A record with a bundle of other tensors, whose hash it names."""
    records = [p for p in documents(ledger) if json.loads(p.read_bytes()).get("bundle")]
    path = rng.choice(records)
    record = json.loads(path.read_bytes())
    file = store / record["bundle"][:2] / f"{record['bundle']}.safetensors"
    arrays = load(file.read_bytes())
    name = rng.choice(sorted(arrays))
    changes = [
        lambda a: a[:-1], lambda a: np.concatenate([a, a]), lambda a: a[::-1].copy(), lambda a: a.astype(np.int32),
        lambda a: a + np.ones_like(a) if a.dtype != bool else ~a, lambda a: a[:0], lambda a: a[None],
        lambda a: np.full_like(a, 255 if a.dtype == np.uint8 else 1), lambda a: a.astype(np.float32),
        lambda a: -a.astype(np.int64),
    ]  # fmt: skip
    arrays[name] = rng.choice(changes)(arrays[name])
    if rng.random() < 0.2:
        arrays["images"] = arrays.pop(name)
    content = save({k: np.ascontiguousarray(v) for k, v in arrays.items()})
    record["bundle"] = hashlib.sha256(content).hexdigest()
    (store / record["bundle"][:2]).mkdir(exist_ok=True)
    (store / record["bundle"][:2] / f"{record['bundle']}.safetensors").write_bytes(content)
    put(ledger, json.dumps(record).encode(), path)


@given(SEEDS)
@often(300, 10)
def test_a_changed_proof_is_recounted_or_refused(made, seed):
    """Adversarial images of other places, kinds, lengths or values, under the hash that the record names."""
    with folder() as here:
        for name in ("ledger", "store"):
            shutil.copytree(made / name, here / name)
        redrawn(here / "ledger", here / "store", random.Random(seed))
        call(here, "verify", "--plugin", str(TINY), "--ledger", "ledger", "--store", "store", kind="proofs")


@given(SEEDS, st.sampled_from(["flipped", "repacked"]), st.sampled_from(["unpack", "verify"]))
@often(600, 20)
def test_a_changed_bundle_is_read_or_refused(made, seed, how, command):
    """Bytes of the file, or of what it holds; nothing is written where anything is wrong."""
    whole = (made / "whole.tar").read_bytes()
    content = spoilt_bytes(whole, seed) if how == "flipped" else repacked(whole, random.Random(seed))
    with folder() as here:
        (here / "b.tar").write_bytes(content)
        if command == "unpack":
            code, _ = call(here, "bundle", "unpack", "b.tar", "--ledger", "l", "--store", "s", kind="bundles")
            assert not code or not list(here.glob("[ls]/*/*")), "something was written"
        else:
            call(here, "verify", "b.tar", "--plugin", str(TINY), kind="bundles")


@given(st.data())
@often(900, 30)
def test_a_changed_baseline_is_read_or_refused(made, data):
    """Other values under a digest that fits them, or any bytes; the gate may also say that something regressed."""
    whole = (made / "baseline.json").read_text()
    found = data.draw(spoilt_json([whole]))
    if isinstance(found, dict) and data.draw(st.booleans()):
        with suppress(TypeError, ValueError):
            found["digest"] = digest([*found["entries"], *found.get("costs", [])]) if "entries" in found else "0" * 64
    content = json.dumps(found).encode()
    if data.draw(st.integers(0, 3)) == 0:
        content = spoilt_bytes(whole.encode(), data.draw(SEEDS))
    with folder() as here:
        (here / "b.json").write_bytes(content)
        words = (
            "gate",
            "--baseline",
            "b.json",
            "--ledger",
            str(made / "ledger"),
            "--markdown",
            "m.md",
            "--junit",
            "j.xml",
        )
        call(here, *words, codes={0, 2, 3, 4, 5}, kind="baselines")


@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode(errors="surrogatepass")))
@often(300, 30)
def test_bytes_that_are_no_document_are_a_value_error(content):
    """Anything at all where a document is expected."""
    with pytest.raises(ValueError):  # noqa: PT011  pydantic's message is its own
        read_document(content)
