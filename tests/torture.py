"""Runs that are killed by SIGKILL at random moments until they end, as a program: python -m tests.torture.

A process that has imported everything forks children, each of which is the command line from its first word to its
last; a child is killed and the next one goes on with the same command.  So torch is imported once, and 200 kills are
minutes.  What a child is doing is seen in memory that it shares; it is told by marks around functions of the bench,
which change nothing.  At the end every ledger must hold exactly what that of an undisturbed run holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import bench.answer
import bench.checked
import bench.files
import bench.obtain
import leaderboard.site
from bench.cli import main as command_line
from bench.events import parsed
from bench.ledger import Ledger
from bench.origin import about
from bench.place import Place
from bench.records import Record, TrainingRecord
from bench.store import Store
from tests.conformance.pages import fill

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"
PHASES = ("training", "attacking", "publishing", "writing")  # a later one is within an earlier one
DEFENSES = ("at(epochs=3, batch=256)", "trades(epochs=2, batch=256)", "part(epochs=3, warm_up=1, batch=256)")
WORDS = (
    "run", "--defense", *DEFENSES, "-n", "40", "--executor", "inline", "--device", "cpu",
    "--weights", "best,last", "--conditions", "clean",
    "--columns", "clean, fgsm, pgd(steps=5), pgd(steps=10), fmn(steps=10), square(queries=20)",
)  # fmt: skip
EACH = 8  # kills that a round aims at each of training, attacking and publishing, half of them at a write in it
WRITING = 0.002  # seconds after a write began, in which the kill comes
LONGEST = 120.0  # seconds without an end or a phase that is waited for: something hangs


class Marks:
    """What a child does, in memory that it shares: for each phase how deep it is in it, and how often it came there."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(PHASES))

    def __call__(self, phase: str) -> tuple[int, int]:
        """How deep, and how often."""
        return struct.unpack_from("ii", self._memory, 8 * PHASES.index(phase))

    def clear(self) -> None:
        """For the next child."""
        self._memory[:] = bytes(len(self._memory))

    def now(self) -> str:
        """The innermost phase."""
        return next((phase for phase in reversed(PHASES) if self(phase)[0]), "between")

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Note that the block is of a phase."""
        place = 8 * PHASES.index(phase)
        depth, times = self(phase)
        struct.pack_into("ii", self._memory, place, depth + 1, times + 1)
        try:
            yield
        finally:
            struct.pack_into("ii", self._memory, place, self(phase)[0] - 1, self(phase)[1])

    def put(self) -> None:
        """Put marks around the functions of the bench; in a child, of which nothing returns."""
        for phase, module, name in (
            ("training", bench.obtain, "train"), ("attacking", bench.answer, "judge_together"),
            ("attacking", bench.checked, "check_model"), ("publishing", leaderboard.site, "publish"),
        ):  # fmt: skip
            setattr(module, name, self._around(phase, getattr(module, name)))
        inner = bench.files.writing

        @contextmanager
        def writing(*words: Any) -> Iterator[Any]:
            with self.within("writing"), inner(*words) as file:
                yield file

        bench.files.writing = writing

    def _around(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*words: Any, **named: Any) -> Any:
            with self.within(phase):
                return function(*words, **named)

        return marked


def start(folder: Path, marks: Marks) -> int:
    """The command line in a folder, as a process of its own."""
    sys.stdout.flush()
    marks.clear()
    child = os.fork()
    if child:
        return child
    try:
        marks.put()
        os.chdir(folder)
        said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.argv = ["bench", *WORDS]
        command_line()
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    finally:
        os._exit(70)


def ended(child: int) -> bool:
    """Whether a child has ended by itself; it is not reaped."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def waited(child: int, done: Callable[[], bool]) -> bool:
    """Wait until something is so, or the child has ended, and say whether it is so and the child lives."""
    begun = time.monotonic()
    while not ended(child):
        if done():
            return True
        if time.monotonic() - begun > LONGEST:
            os.kill(child, signal.SIGKILL)
            raise SystemExit(f"after {LONGEST:.0f} s nothing has changed")
        time.sleep(0.0005)
    return False


@dataclass(frozen=True)
class Held:
    """What a ledger and a store hold, whole: it must be the same after any number of kills."""

    trainings: tuple[tuple[str, str], ...]  # key, and the hashes of its weights
    verdicts: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]  # key, asked, fell
    figures: tuple[tuple[str, str], ...]  # of each key: the hash of classes, margins and distances by image
    doubled: tuple[str, ...]  # keys of which an image was asked twice, or that were trained twice

    @property
    def hash(self) -> str:
        """One number for all."""
        return hashlib.sha256(repr((self.trainings, self.verdicts, self.figures)).encode()).hexdigest()


def held(folder: Path) -> Held:
    """What lies there; an IntegrityError where something is not whole, an AssertionError where something is missing."""
    ledger, store = Ledger(folder / "results/ledger"), Store(folder / "results/store")
    trainings: list[tuple[str, str]] = []
    answers: dict[str, dict[int, tuple[bool, str]]] = {}
    doubled = []
    for document in ledger.all():
        if isinstance(document, TrainingRecord):
            assert all(store.get(name) for name in document.weights.values())
            trainings.append((document.key, json.dumps(document.weights, sort_keys=True)))
        elif isinstance(document, Record):
            figures, fell = ledger.images(document), set(document.fell)
            assert document.bundle is None or store.get(document.bundle)
            # Not the passes: a cell that another one's run answers has none of its own, and a kill may part the two.
            rows = [repr([figures[name][i].tobytes() for name in ("predicted", "margin", "distance")])
                    for i in range(len(document.asked))]  # fmt: skip
            of_key = answers.setdefault(document.key, {})
            doubled += [document.key] * bool(of_key.keys() & set(document.asked))
            of_key |= {i: (i in fell, row) for i, row in zip(document.asked, rows, strict=True)}
    doubled += [key for key, times in Counter(key for key, _ in trainings).items() if times > 1]
    of_keys = sorted(answers.items())
    return Held(
        tuple(sorted(trainings)),
        tuple((key, tuple(sorted(of)), tuple(i for i in sorted(of) if of[i][0])) for key, of in of_keys),
        tuple((key, hashlib.sha256("".join(of[i][1] for i in sorted(of)).encode()).hexdigest()) for key, of in of_keys),
        tuple(doubled),
    )


def leftovers(folder: Path) -> list[str]:
    """Unfinished files."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.part"))


@dataclass
class Tally:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)  # by phase
    starts: int = 0
    rounds: int = 0
    hashes: list[str] = field(default_factory=list)
    calm: str = ""  # the hash of the undisturbed run
    wrong: list[str] = field(default_factory=list)


@dataclass
class Torture:
    """Rounds of kills, each in a folder of its own, until there were enough."""

    kills: int
    rng: random.Random
    root: Path
    marks: Marks = field(default_factory=Marks)
    tally: Tally = field(default_factory=Tally)

    def run(self) -> Tally:
        """An undisturbed run, then the rounds."""
        calm = self.root / "calm"
        calm.mkdir()
        begun = time.monotonic()
        child = start(calm, self.marks)
        seconds = self._seconds(child)
        self._end(child, calm)
        expected = held(calm)
        self.tally.calm = expected.hash
        say(f"undisturbed: {time.monotonic() - begun:.1f} s, {len(expected.trainings)} trainings, "
            f"{len(expected.verdicts)} cells, hash {expected.hash[:16]}")  # fmt: skip
        while self.tally.kills.total() < self.kills and not self.tally.wrong:
            self._round(self.root / f"round-{self.tally.rounds}", expected, seconds)
            self.tally.rounds += 1
            say(f"round {self.tally.rounds}: {self.tally.kills.total()} kills")
        return self.tally

    def _seconds(self, child: int) -> dict[str, float]:
        """How long a child is in each phase at a time, at most; it runs to its end."""
        longest, since = dict.fromkeys(PHASES, 0.0), dict.fromkeys(PHASES, 0.0)

        def look() -> bool:
            now = time.monotonic()
            for phase in PHASES:
                if self.marks(phase)[0] == 0:
                    since[phase] = now
                longest[phase] = max(longest[phase], now - since[phase])
            return False

        waited(child, look)
        return longest

    def _round(self, folder: Path, expected: Held, seconds: dict[str, float]) -> None:
        """Kill the command again and again on its way through training, attacking and publishing; then let it end."""
        folder.mkdir()
        left = [phase for phase in PHASES[:3] for _ in range(EACH)]
        while left and self.tally.kills.total() < self.kills:
            now = held(folder)  # whatever has its name is whole, after every kill
            if left[0] == "training" and now.trainings == expected.trainings:
                left = [phase for phase in left if phase != "training"]
            if left[0] == "attacking" and now.verdicts == expected.verdicts:
                left = [phase for phase in left if phase != "attacking"]
            if not left:
                break
            phase = self.rng.choice((left.pop(0), "writing"))
            child = start(folder, self.marks)
            self.tally.starts += 1
            times = 1 if phase in {"training", "publishing"} else self.rng.randint(1, 4)
            alive = waited(child, lambda: self.marks(phase)[1] >= times)  # noqa: B023  it is called at once
            time.sleep(self.rng.uniform(0, WRITING if phase == "writing" else seconds[phase]))
            if not alive or ended(child):
                self._end(child, folder)
                continue
            os.kill(child, signal.SIGSTOP)  # so that what is noted is where it ends
            self.tally.kills[self.marks.now()] += 1
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self.tally.starts += 1
        child = start(folder, self.marks)
        waited(child, lambda: False)
        self._end(child, folder)
        self._check(folder, expected)

    def _end(self, child: int, folder: Path) -> None:
        """A child that was not killed ends well."""
        _, status = os.waitpid(child, 0)
        if status:
            lines = (folder / "said.txt").read_text().splitlines()[-20:]
            self.tally.wrong.append(f"{folder.name} ended with {status}: " + "\n".join(lines))

    def _check(self, folder: Path, expected: Held) -> None:
        """Nothing lost, nothing doubled, nothing unfinished, and the same verdicts."""
        found, wrong = held(folder), self.tally.wrong
        self.tally.hashes.append(found.hash)
        for name in ("trainings", "verdicts", "figures"):
            if getattr(found, name) != getattr(expected, name):
                wrong.append(f"{folder.name}: {name} differ from those of the undisturbed run")
        wrong += [f"{folder.name}: {key} was done twice" for key in found.doubled]
        wrong += [f"{folder.name}: {path} was left" for path in leftovers(folder)]
        for log in folder.glob("results/events/*.jsonl"):
            torn = [line for line in log.read_bytes().splitlines() if line and not parsed(line)]
            wrong += [f"{folder.name}: {log.name} has a line that is not whole: {line!r}" for line in torn]
        pages = [{str(p.relative_to(f)) for p in f.rglob("*.html")} for f in (folder, self.root / "calm")]
        if pages[0] != pages[1]:
            wrong.append(f"{folder.name}: other pages than those of the undisturbed run: {pages[0] ^ pages[1]}")


def table(tally: Tally) -> str:
    """As the page has it."""
    rows = [f"| {phase} | {tally.kills[phase]} |" for phase in (*PHASES, "between")]
    same = "equal to the undisturbed run's in every round" if {*tally.hashes} == {tally.calm} else "NOT equal"
    said = (
        f"{tally.starts} starts in {tally.rounds} rounds of {len(DEFENSES)} trainings and their attacks; records lost: "
        f"0, doubled: 0, unfinished files left: 0; the hash of trainings and verdicts is {same} "
        f"(`{tally.calm[:16]}`)."
    )
    head = ("| killed while | kills |", "|---|---:|")
    return "\n".join([*head, *rows, f"| all | {tally.kills.total()} |", "", said])


def say(text: str) -> None:
    """A line for a person."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> None:
    """Print what happened as JSON; exit 1 where something was wrong."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--kills", type=int, default=200)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--page", action="store_true", help="put the table into docs/faults.md")
    given = words.parse_args()
    torch.set_num_threads(1)
    about(torch.device("cpu"), 0)  # asks git once for all children
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        assert Place(Path(), Path(), Path()).registry  # found once for all children
        tally = Torture(given.kills, random.Random(given.seed), Path(folder)).run()
    if tally.wrong:
        raise SystemExit("\n".join(tally.wrong))
    if given.page:
        fill(PAGE, "torture", table(tally))
    print(json.dumps({**vars(tally), "kills": dict(tally.kills), "all": tally.kills.total()}))  # noqa: T201


if __name__ == "__main__":
    main()
