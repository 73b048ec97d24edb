"""Machines on which something is amiss, each a fork of this program: SCENARIO DIR; it prints what was found as JSON.

Torch is imported once.  A scenario is given a folder, and starts the command line as processes of their own.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import torch

import bench.events
import bench.files
import bench.origin
from bench.cli import main as command_line
from bench.registry import plugins
from tests.torture import held

WORDS = (
    "run", "--defense", "at(epochs=2, batch=256)", "trades(epochs=1, batch=256)", "-n", "40", "--executor", "inline",
    "--columns", "clean, fgsm, pgd(steps=5), pgd(steps=10)", "--device", "cpu",
)  # fmt: skip


def start(folder: Path, words: tuple[str, ...] = WORDS, amiss: Callable[[], object] = lambda: None) -> int:
    """The command line in a folder, where something is amiss."""
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return child
    try:
        os.chdir(folder)
        said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.argv = ["bench", *words]
        amiss()
        command_line()
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    finally:
        os._exit(70)


def ends(*children: int) -> list[int]:
    """Their exit codes."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def named(host: str) -> None:
    """Have the machine another name."""
    bench.files._MINE = f".{host}."
    about = os.uname()
    os.uname = lambda: os.uname_result((about.sysname, host, about.release, about.version, about.machine))


def unlocked() -> None:
    """Have no file system any locks."""

    def refuse(*_words: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = fcntl.lockf = refuse  # type: ignore[assignment]


def two_machines(root: Path, amiss: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Two of one ledger and store, at the same time, each by a path of its own."""
    (root / "calm").mkdir()
    codes = ends(start(root / "calm"))
    shared = root / "shared"
    (shared / "results").mkdir(parents=True)
    children = []
    for host in ("one", "two"):
        (root / host).mkdir()
        (root / host / "results").symlink_to(shared / "results")
        words = (*WORDS, "--site", str(root / host / "site"))
        children.append(start(root / host, words, lambda host=host: (named(host), amiss())))  # type: ignore[misc]
    codes += ends(*children)
    calm, found = held(root / "calm"), held(shared)
    logs = [path.name for path in (shared / "results/events").iterdir()]
    return {
        "codes": codes, "verdicts": calm.verdicts == found.verdicts, "figures": calm.figures == found.figures,
        "trainings": set(calm.trainings) == set(found.trainings), "doubled": len(found.doubled),
        "logs": sorted(name.split("-")[1] for name in logs), "left": [str(p) for p in shared.rglob("*.part")],
        "said": "".join((root / host / "said.txt").read_text()[-1500:] for host in ("one", "two")),
    }  # fmt: skip


def no_locks(root: Path) -> dict[str, Any]:
    """The same where neither can hold a lock."""
    return two_machines(root, unlocked)


def clock(root: Path) -> dict[str, Any]:
    """A clock on the wall that jumps by years, back and forth, at every look."""
    rng = random.Random(0)
    wall = time.time

    def jumps() -> float:
        return wall() + rng.uniform(-3e8, 3e8)

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Jumping:
            return cls.fromtimestamp(jumps(), tz or UTC)

    def amiss() -> None:
        time.time = jumps
        bench.origin.datetime = bench.events.datetime = Jumping  # type: ignore[misc, attr-defined]

    calm, root = root / "calm", root / "jumps"
    codes = ends(start(calm))
    first = start(root, amiss=amiss)
    deadline = time.monotonic() + 100
    while not list(root.glob("results/store/scratch/*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(first, 9)
    codes += ends(first) + ends(start(root, amiss=amiss)) + ends(start(root, amiss=amiss))
    made = [json.loads(path.read_text()).get("made", "") for path in root.glob("results/ledger/*/*.json")]
    return {
        "codes": codes, "hash": held(calm).hash == held(root).hash, "doubled": len(held(root).doubled),
        "years": len({time[:4] for time in made if time}), "said": (root / "said.txt").read_text()[-1500:],
        "left": [str(p) for p in root.rglob("*.part")],
    }  # fmt: skip


def memory(root: Path) -> dict[str, Any]:
    """A machine with little memory: a training that does not fit, then the same with a smaller batch."""

    def little() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20, resource.RLIM_INFINITY))

    net, rest = "wrn(depth=16, width=8)", ("--columns", "clean", "-n", "20", "--executor", "inline", "--device", "cpu")
    whole = ("run", "--net", net, "--defense", "standard(epochs=1, batch=1000)", *rest)
    codes = ends(start(root, whole, little))
    return {"codes": codes, "said": (root / "said.txt").read_text()[-1500:], "held": len(held(root).trainings)}


SCENARIOS = {"two-machines": two_machines, "no-locks": no_locks, "clock": clock, "memory": memory}

if __name__ == "__main__":
    torch.set_num_threads(1)
    assert plugins().names("defense")
    print(json.dumps(SCENARIOS[sys.argv[1]](Path(sys.argv[2]))))  # noqa: T201
