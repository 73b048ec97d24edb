"""Reading a ledger in a hurry: the same documents as one by one, and bitmaps that are sets."""

from __future__ import annotations

import json
import random

import pytest

import leaderboard.reading
from bench import PLACES, Ledger, read_document
from bench.records import write_document
from leaderboard.documents import Documents
from leaderboard.images import Images
from leaderboard.reading import Reader, read_all

from . import synthetic


def test_images_behave_as_sets_do():
    rng = random.Random(0)
    for _ in range(200):
        a, b = ({rng.randrange(90) for _ in range(rng.randrange(40))} for _ in range(2))
        x, y, n = Images(a), Images(b), rng.randrange(90)
        assert (set(x | y), set(x & y), set(x - y)) == (a | b, a & b, a - b)
        assert (x <= y, x == y, len(x), bool(x)) == (a <= b, a == b, len(a), bool(a))
        assert list(x) == sorted(a) and (n in x) == (n in a)
        assert x.first == next(i for i in range(91) if i not in a) and x.end == max(a, default=-1) + 1
        assert x.among(n) == sum(i < n for i in a) and Images.below(n) == set(range(n))
        assert Images.common([x, y]) == a & b and Images.union([x, y, Images()]) == a | b
    assert Images.common([]) == Images() == set()
    for wrong in ([-1], [PLACES], [10**30]):
        with pytest.raises(ValueError, match="places"):
            Images(wrong)


def same(document):
    """A record as plain values, whatever its lists are."""
    return document.model_dump(exclude={"asked", "fell"}), sorted(document.asked), sorted(document.fell)


@pytest.mark.parametrize(
    ("asked", "fell"),
    [(range(10), [0, 9]), ([5], []), ([3, 4, 900], [900]), ([4, 2, 0], [2]), (range(0, 3000, 7), range(0, 3000, 21))],
)
def test_a_record_read_fast_is_the_record(writer, asked, fell):
    content = writer.cell(',"asked":[1],"fell":[', 'a",\\"asked\\":[0]', asked, fell).read_bytes()
    record, plain = Reader()(content), read_document(content)
    assert same(record) == same(plain)
    assert list(record.asked) == list(plain.asked)  # in the order of the sidecar
    assert isinstance(record.asked, Images) == (list(asked) == sorted(asked))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"asked":[0,1,2,3]', b'"asked":[0,1,1,3]'), (b'"asked":[0,1,2,3]', b'"asked":[0,1,2,03]'),
        (b'"asked":[0,1,2,3]', b'"asked":[]'), (b'"asked":[0,1,2,3]', b'"asked":[00,1,2,3]'),
        (b'"asked":[0,1,2,3]', b'"asked":[0,1,,3]'), (b'"asked":[0,1,2,3]', b'"asked":[0,1,3,]'),
        (b'"asked":[0,1,2,3]', b'"asked":[0,1,-3]'), (b'"asked":[0,1,2,3]', b'"asked":[0,1,2.5]'),
        (b'"asked":[0,1,2,3]', b'"asked":[0,1,[2],3]'), (b'"asked":[0,1,2,3]', b'"asked":[0,1,18446744073709551617]'),
        (b'"fell":[1]', b'"fell":[7]'), (b'"fell":[1]', b'"fell":[1,1]'), (b'"fell":[1]', b'"fell":[-1]'),
        (b'"seed":0', b'"seed":1'), (b'"doubts":[]', b'"doubts":["x"],"q":1'),
    ],
)  # fmt: skip
def test_what_is_no_record_is_none_read_fast_either(writer, old, new):
    content = writer.cell("w", "a@1()", range(4), [1]).read_bytes()
    assert old in content
    with pytest.raises(ValueError, match=r".") as wrong:
        Reader()(content.replace(old, new))
    assert wrong.type.__name__ in {"ValidationError", "ValueError"}


def test_of_two_lists_of_one_name_the_last_counts_as_it_does_for_pydantic(writer):
    content = writer.cell("w", "a@1()", range(4), [1]).read_bytes()
    twice = content.replace(b'"doubts"', b'"asked":[1,2],"doubts"')
    assert same(Reader()(twice)) == same(read_document(twice)) and list(Reader()(twice).asked) == [1, 2]


def test_two_processes_read_what_one_does(tmp_path, monkeypatch):
    """In the same order, with the same complaints; and where the second one dies, the first reads its part too."""
    ledger = Ledger(synthetic.ledger(tmp_path, rows=40, attacks=3, images=30))
    paths = sorted(tmp_path.glob("*/*.json"))
    for path in (paths[3], paths[-3]):
        path.write_bytes(b"{}")
    alone: list[str] = []
    expected = [write_document(d) if d.schema_ != "rampart/record-1" else same(d) for d in read_all(ledger, alone)]
    assert len(alone) == 2
    monkeypatch.setattr(leaderboard.reading, "MANY", 10)
    monkeypatch.setattr(leaderboard.reading.os, "cpu_count", lambda: 2)
    for module in ("leaderboard.reading", "leaderboard.nothing_of_this_name"):
        if module != "leaderboard.reading":
            monkeypatch.setattr(leaderboard.reading, "MODULE", module)
        told: list[str] = []
        found = read_all(ledger, told)
        assert [write_document(d) if d.schema_ != "rampart/record-1" else same(d) for d in found] == expected
        assert told == alone


def test_many_records_take_little_memory(tmp_path):
    """What a record of a thousand images holds is its bits, not a list of a thousand numbers."""
    root = synthetic.ledger(tmp_path, rows=3, attacks=2, images=1000)
    found = Documents.of(Ledger(root))
    assert len(found.records) == 9 and all(isinstance(r.asked, Images) for r in found.records)
    assert len({id(r.machine) for r in found.records}) == 1
    plain = [json.loads(p.read_bytes()) for p in root.glob("*/*.json")]
    assert sum(len(r.fell) for r in found.records) == sum(len(d["fell"]) for d in plain if "fell" in d)
