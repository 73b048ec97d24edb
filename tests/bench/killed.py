"""Two writers of one ledger that are killed at random moments and started again, as a program: DIR RECORDS KILLS SEED.

It prints, as JSON, what was found.  After every kill whatever has a record's name is read and checked.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from bench.exam import Cell
from bench.ledger import Ledger
from bench.records import Record
from tests.bench.test_ledger import RECORD


def write(root: Path, first: int, records: int) -> None:
    """Start as a run does, and add the records that are not there, each with its sidecar."""
    ledger = Ledger(root)
    ledger.tidy()
    for seed in range(first, first + records):
        facts = RECORD | {"seed": seed, "asked": list(range(1000)), "fell": [seed % 1000]}
        named = ("net", "weights", "test", "condition", "threat", "attack", "seed", "precision")
        facts["key"] = Cell(**{name: facts[name] for name in named}).key
        if not ledger.of(facts["key"], Record):
            margins = {"margin": np.full(1000, seed, np.float32)}
            facts["images"] = ledger.put_images(facts["key"], margins)
            ledger.add(Record.model_validate(facts))


def start(root: Path, first: int, records: int) -> int:
    """A writer's process."""
    child = os.fork()
    if child == 0:
        write(root, first, records)
        os._exit(0)
    return child


def check(root: Path) -> set[int]:
    """The seeds of the records, each of them whole, with its sidecar."""
    ledger = Ledger(root)
    found = set()
    for record in ledger.all():
        assert isinstance(record, Record) and record.asked == list(range(1000))
        assert (ledger.images(record)["margin"] == record.seed).all()
        found.add(record.seed)
    return found


def ended(child: int) -> bool:
    """Whether a writer has ended by itself; it is not reaped."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main(root: Path, records: int, kills: int, seed: int) -> dict[str, int]:
    """Kill one of the two, start it again, and so on, all over the writing; then let both end."""
    rng = random.Random(seed)
    left = never = 0
    root.mkdir(exist_ok=True)
    writers = [start(root, side * records, records) for side in (0, 1)]
    for kill in range(kills):
        due = (
            0.9 * 2 * records * (kill + rng.random()) / kills
        )  # when so many records are begun, whatever the clock says
        while len(os.listdir(root)) < due and not all(map(ended, writers)):
            time.sleep(rng.uniform(0, 0.001))
        side = rng.randrange(2)
        side = 1 - side if ended(writers[side]) else side
        never += ended(writers[side])
        os.kill(writers[side], signal.SIGKILL)
        os.waitpid(writers[side], 0)
        left += len(list((root / ".incoming").glob(".*.part")))
        if kill % max(1, kills // 20) == 0:
            check(root)
        writers[side] = start(root, side * records, records)
    codes = [os.waitpid(writer, 0)[1] for writer in writers]
    during = len(list(root.rglob("*.part")))
    Ledger(root).tidy()
    found = check(root)
    files = [p for p in root.rglob("*") if p.is_file()]
    return {
        "exit_codes": sum(codes), "ended_before": never, "seen_unfinished": left, "left_at_the_end": during,
        "left_after_a_start": len([p for p in files if p.name.endswith(".part")]),
        "records": len(found), "files": len(files),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))))  # noqa: T201
