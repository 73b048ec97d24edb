"""Reading a ledger fast and into little memory: a hundred thousand records in some seconds and half a gigabyte."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bench import PLACES, Ledger, Record, read_document
from leaderboard.images import Images

MANY = 20_000  # keys, from which on a second process reads half of them
MODULE = "leaderboard.reading"
ASKED, FELL = b',"asked":[', b'],"fell":['
FIRST, SECOND = "01234567", "89abcdef"  # keys are hashes: half of them begin with one of these


def read_all(ledger: Ledger, damaged: list[str]) -> list[Any]:
    """Every document of a ledger, in its order; `damaged` gets a sentence for each file that cannot be read."""
    with no_sweeps():
        if ledger.size() < MANY or (os.cpu_count() or 1) < 2:
            return list(ledger.all(damaged.append, Reader()))
        helper = _started(ledger)
        found = list(ledger.all(damaged.append, Reader(), FIRST))
        second, said = _finished(helper) or _part(ledger, SECOND)
        damaged += said
        return found + second


def _part(ledger: Ledger, begins: str) -> tuple[list[Any], list[str]]:
    """The documents whose keys begin so, and what cannot be read."""
    damaged: list[str] = []
    return list(ledger.all(damaged.append, Reader(), begins)), damaged


def _started(ledger: Ledger) -> subprocess.Popen[bytes] | None:
    """A process that reads the second half; None where none can be started."""
    words = [sys.executable, "-m", MODULE, str(ledger.root)]
    # Not forked: this process may hold threads, torch's for one.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    except OSError:
        return None


def _finished(helper: subprocess.Popen[bytes] | None) -> tuple[list[Any], list[str]] | None:
    """What the process has read; None where it died on the way."""
    if helper is None or helper.stdout is None:
        return None
    with helper:
        content = helper.stdout.read()
    if helper.returncode != 0:
        return None
    found: tuple[list[Any], list[str]] = pickle.loads(content)  # noqa: S301 - written by our own process
    return found


@contextmanager
def no_sweeps() -> Iterator[None]:
    """Keep Python from looking for cycles: what is read holds none, and each search goes through all of it again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Reader:
    """Reads documents from their JSON, records into little memory: images as bitmaps, what many share once.

    Most of a record is its lists of images, which pydantic makes a Python integer for each of.  So they are cut out
    of the text, where that is as the bench writes it, and only the rest goes through pydantic.
    """

    def __init__(self) -> None:
        self.shared: dict[Any, Any] = {}

    def __call__(self, content: bytes) -> Any:
        """The document; ValueError says what is wrong with it."""
        found = self._cut(content)
        document = read_document(found[0] if found else content)
        if not isinstance(document, Record):
            return document
        if found and document.asked == [0] and not document.fell:
            return self._small(document, {"asked": found[1], "fell": found[2]})
        if found:
            document = read_document(content)
            assert isinstance(document, Record)
        lists = {name: getattr(document, name) for name in ("asked", "fell")}
        return self._small(document, {name: Images(x) for name, x in lists.items() if x == sorted(x)})

    @staticmethod
    def _cut(content: bytes) -> tuple[bytes, Images, Images] | None:
        """A record's text without its images, and these; None where the text is not as the bench writes it.

        Quotes within strings follow a backslash, so what is found here is no part of a name.
        """
        start = content.find(ASKED)
        middle = content.find(b"]", start)
        if start < 0 or not content.startswith(FELL, middle) or content.find(ASKED, middle) >= 0:
            return None
        end = content.find(b"]", middle + len(FELL))
        asked, fell = _ascending(content[start + len(ASKED) : middle]), _places(content[middle + len(FELL) : end])
        if not asked or fell is None or fell.bits & ~asked.bits:
            return None
        return content[: start + len(ASKED)] + b"0" + FELL + content[end:], asked, fell

    def _small(self, record: Record, changes: dict[str, Any]) -> Record:
        """The record with these changes, and with what other records hold too."""
        share = self.shared.setdefault
        for name in (
            "net",
            "weights",
            "dataset",
            "test",
            "condition",
            "threat",
            "attack",
            "images",
            "source",
            "paper",
            "commit",
        ):
            value = getattr(record, name)
            changes[name] = share(value, value)
        machine = record.machine
        changes["machine"] = share((machine.device, machine.name, machine.threads, machine.tile), machine)
        changes["versions"] = share(tuple(record.versions.items()), record.versions)
        return record.model_copy(update=changes)


def _places(text: bytes) -> Images | None:
    """The places in a JSON list, without its brackets; None unless they are whole numbers that ascend."""
    if not text:
        return Images()
    # Only 0 may begin with a zero, and in a list that ascends it is the first.
    if text.translate(None, b"0123456789,") or b",," in text or b",0" in text or text[-1:] == b",":
        return None
    if (text[:1] == b"0" and text[1:2] not in {b"", b","}) or text[:1] == b",":
        return None
    places = np.fromstring(text, dtype=np.int64, sep=",")
    if places[-1] >= PLACES or (places[1:] <= places[:-1]).any():
        return None
    bits = np.zeros(int(places[-1]) + 1, bool)
    bits[places] = True
    return Images.of(int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little"))


_ascending = lru_cache(maxsize=1 << 13)(_places)  # single attacks are asked about the same images, those that stand


if __name__ == "__main__":
    with no_sweeps():
        pickle.dump(_part(Ledger(Path(sys.argv[1])), SECOND), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
