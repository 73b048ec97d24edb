"""Records: read back as written, named by content, whole after any crash."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench.errors import IncompleteError, IntegrityError
from bench.exam import Cell, Column, Dataset, Part
from bench.ledger import Ledger
from bench.records import ColumnCard, DatasetCard, ExamCard, Record, TrainingRecord, read_document, write_document
from bench.threat import ThreatModel

ROOT = Path(__file__).parents[2]
RECORD = {
    "schema": "rampart/record-1", "key": "a" * 64, "net": "cnn@1()", "weights": "b" * 64, "dataset": "toy",
    "test": "c" * 64, "condition": "clean", "threat": "linf:8/255", "attack": "pgd@1()", "seed": 0,
    "precision": "exact", "asked": [3, 1, 2], "fell": [1], "images": "d" * 64, "bundle": None, "source": "e" * 64,
    "paper": "", "access": "gradients",
    "cost": {"forwards": 10, "backwards": 5, "seconds": 0.1}, "run": None, "doubts": ["it is new"],
    "machine": {"device": "cpu", "name": "a processor", "threads": 1, "tile": 32},
    "versions": {"torch": "2.11.0"}, "commit": "", "made": "2025-01-01T00:00:00Z",
}  # fmt: skip


def keyed(facts):
    """The facts under the key that they make."""
    named = ("net", "weights", "test", "condition", "threat", "attack", "seed", "precision")
    return {**facts, "key": Cell(**{name: facts[name] for name in named}).key}


RECORD = keyed(RECORD)


def record(**changes):
    """A record."""
    return Record.model_validate(keyed({**RECORD, **changes}))


def test_read_back(tmp_path):
    """What was added comes back, under its key and among all; the same content twice is one file."""
    ledger, other = Ledger(tmp_path), record(seed=1)
    paths = {ledger.add(record()), ledger.add(record()), ledger.add(record(commit="x")), ledger.add(other)}
    assert len(paths) == 3 and all(p.parent.parent == tmp_path for p in paths)
    assert ledger.of(other.key, Record) == [other] and len(ledger.of(record().key, Record)) == 2
    assert ledger.of(other.key, TrainingRecord) == [] == ledger.of("0" * 64, Record)
    assert sorted(map(write_document, ledger.all())) == sorted(
        map(write_document, [record(), record(commit="x"), other])
    )
    assert list(Ledger(tmp_path / "none").all()) == []


def test_names_are_hashes():
    """A record is one line of JSON that reads back to it, with its schema first."""
    text = write_document(record())
    assert text.endswith("}\n") and text.count("\n") == 1 and text.startswith('{"schema":"rampart/record-1"')
    assert read_document(text) == record() and json.loads(text) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"asked": []}, {"asked": [1, 1]}, {"asked": [-1, 1]}, {"fell": [9]}, {"fell": [1, 1]}, {"key": "A" * 64},
        {"seed": 7},
        {"key": "../../x"}, {"schema": "rampart/record-2"}, {"extra": 1}, {"seed": "zero"}, {"cost": {}},
        {"images": "d" * 64 + "\n"},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_records(change):
    """A record with a field that is missing, unknown, of another type or against sense is not read."""
    with pytest.raises(ValueError, match=r"validation error|tag"):
        read_document(json.dumps({**RECORD, **change}))


@pytest.mark.parametrize("damage", ["flip", "cut", "append", "empty"])
def test_damage_is_named(tmp_path, damage):
    """A record whose content was changed is an integrity error (exit 5) that names the file."""
    ledger = Ledger(tmp_path)
    path = ledger.add(record())
    content = path.read_bytes()
    flipped = content.replace(b'"fell":[1]', b'"fell":[2]')
    path.write_bytes({"flip": flipped, "cut": content[:-20], "append": content + b" ", "empty": b""}[damage])
    for read in (lambda: list(ledger.all()), lambda: ledger.of(RECORD["key"], Record)):
        with pytest.raises(IntegrityError, match=str(path)) as caught:
            read()
        assert caught.value.exit_code == 5


def test_what_is_no_record_is_named(tmp_path):
    """A file that is named by its hash and is no record, or lies under another key, is named too."""
    import hashlib

    ledger = Ledger(tmp_path)
    path = ledger.add(record())
    (tmp_path / ("9" * 64)).mkdir()
    moved = path.rename(tmp_path / ("9" * 64) / path.name)
    with pytest.raises(IntegrityError, match=f"{moved} lies in the folder of another"):
        list(ledger.all())
    moved.unlink()
    content = b'{"schema": "rampart/record-99"}'
    path = tmp_path / ("9" * 64) / f"{hashlib.sha256(content).hexdigest()}.json"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{path} is not a record that this version reads"):
        list(ledger.all())
    path.unlink()
    path.mkdir()
    with pytest.raises(IncompleteError, match=str(path)):
        list(ledger.all())


def test_sidecars(tmp_path):
    """The figures of each image come back as they were, once; a damaged or missing file is an integrity error."""
    ledger = Ledger(tmp_path)
    arrays = {
        "margin": np.array([0.5, -1, np.inf], np.float32),
        "predicted": np.array([3, 1, 2]),
        "queries": np.zeros(3, np.int32),
    }
    name = ledger.put_images(RECORD["key"], arrays)
    assert ledger.put_images(RECORD["key"], dict(reversed(arrays.items()))) == name
    one = record(images=name)
    ledger.add(one)
    back = ledger.images(one)
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[k], v) and back[k].dtype == v.dtype for k, v in arrays.items())
    assert list(ledger.all()) == [one]  # a sidecar is no record
    path = tmp_path / (RECORD["key"]) / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=name):
        ledger.images(one)
    path.unlink()
    with pytest.raises(IntegrityError, match=f"{name}.*missing"):
        ledger.images(one)


def test_cards(tmp_path):
    """Cards of a data set and of columns are written once, and say what the board needs."""
    part = Part(np.zeros((3, 1, 8, 8), np.uint8), np.array([0, 1, 1]))
    toy = Dataset("toy", part, part, part, ("cat", "dog"))
    ledger = Ledger(tmp_path)
    for _ in range(2):
        column = Column("aa", ("apgd@1()", "square@1()"), first=2, by_norm=(("l1", ("square@1()",)),))
        ledger.add_cards(toy, {"aa": column}, ThreatModel.parse("l2:0.5"), 3)
    (card,) = ledger.of(part.hash, DatasetCard)
    assert (card.name, card.classes, card.channels, card.size, card.labels) == ("toy", ["cat", "dog"], 1, 8, [0, 1, 1])
    (column,) = [d for d in ledger.all() if isinstance(d, ColumnCard)]
    assert column.attacks == ["apgd@1()", "square@1()"] and column.strict
    assert (column.first, column.norm) == (2, "l2")
    (exam,) = [d for d in ledger.all() if isinstance(d, ExamCard)]
    assert (exam.test, exam.threat, exam.columns, exam.n) == (part.hash, "l2:0.5", ["aa"], 3)


def test_merge_is_copying(tmp_path):
    """Two ledgers copied into one, in any order and twice, hold the records of both."""
    one, two = Ledger(tmp_path / "1"), Ledger(tmp_path / "2")
    for seed in range(5):
        one.add(record(seed=seed))
        two.add(record(seed=seed + 3))
    for name, order in (("a", (one, two, one)), ("b", (two, one))):
        for ledger in order:
            shutil.copytree(ledger.root, tmp_path / name, dirs_exist_ok=True)
        merged = Ledger(tmp_path / name)
        assert sorted(r.seed for r in merged.all()) == list(range(8))
    assert list(Ledger(tmp_path / "a").all()) == list(Ledger(tmp_path / "b").all())


WRITER = """
import json, sys
from pathlib import Path
from bench.exam import Cell
from bench.ledger import Ledger
from bench.records import Record
ledger, facts = Ledger(Path(sys.argv[1])), json.loads(sys.argv[3])
for i in range(200):
    # both writers share folders
    facts |= {"seed": i % 7, "commit": str(int(sys.argv[2]) + i), "doubts": ["long"] * 500}
    named = ("net", "weights", "test", "condition", "threat", "attack", "seed", "precision")
    facts["key"] = Cell(**{name: facts[name] for name in named}).key
    ledger.add(Record.model_validate(facts))
"""


def test_writers_may_be_killed(tmp_path):
    """Two processes write, one is killed; a reader finds whole records only, and a second start adds the rest."""
    ledger = Ledger(tmp_path)

    def start(first):
        return subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(first), json.dumps(RECORD)], cwd=ROOT)

    with start(0) as killed, start(1000) as whole:
        while sum(int(p.stem != "") for p in tmp_path.glob("*/*.json")) < 60 and killed.poll() is None:
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        during = list(ledger.all())
        assert whole.wait(60) == 0
    assert killed.returncode == -signal.SIGKILL and len(during) >= 60
    (tmp_path / RECORD["key"] / ".abcd.part").write_bytes(b'{"half')  # as a kill in the middle of a write leaves
    seeds = {int(d.commit) for d in ledger.all()}
    assert seeds >= set(range(1000, 1200)) and len(seeds) < 400
    with start(0) as again:
        assert again.wait(60) == 0
    assert {int(d.commit) for d in ledger.all()} == {*range(200), *range(1000, 1200)}
    assert len(list(tmp_path.glob("*/*.json"))) == 400
