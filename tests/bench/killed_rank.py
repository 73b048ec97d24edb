"""Two processes that train together, one of which is killed, as a program: DIR.

What torchrun does with --max-restarts: when one dies, the other is ended, and both are started again.  The processes
are forks, so that torch is imported once.  It prints what was found as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch

from bench.cli import main as command_line
from bench.ledger import Ledger
from bench.records import TrainingRecord
from bench.registry import plugins

WORDS = ("run", "--defense", "at(epochs=4, batch=256)", "--columns", "clean", "-n", "20", "--executor", "inline")


def start(folder: Path, size: int) -> list[int]:
    """So many processes of one command in a folder, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            try:
                os.chdir(folder)
                said = os.open(f"said-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(said, 1)
                os.dup2(said, 2)
                os.environ |= {
                    "WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                }  # fmt: skip
                sys.argv = ["bench", *WORDS]
                command_line()
            except SystemExit as ended:
                os._exit(int(ended.code or 0))
            finally:
                os._exit(70)
        children.append(child)
    return children


def ends(children: list[int]) -> list[int]:
    """Their exit codes."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def trained(folder: Path) -> list[TrainingRecord]:
    """The trainings of a ledger."""
    return [d for d in Ledger(folder / "results/ledger").all() if isinstance(d, TrainingRecord)]


def main(root: Path) -> dict[str, object]:
    """Once undisturbed, and once with kills; a last time with one process where two had begun."""
    torch.set_num_threads(1)
    assert plugins().names("defense")
    calm, killed, fewer = (root / name for name in ("calm", "killed", "fewer"))
    for folder in (calm, killed, fewer):
        folder.mkdir(parents=True)
    found: dict[str, object] = {"calm": ends(start(calm, 2))}
    for folder, victim, signal_sent, size in (
        (killed, 1, signal.SIGKILL, 2), (killed, 0, signal.SIGKILL, 2), (fewer, 1, signal.SIGTERM, 1),
    ):  # fmt: skip
        children = start(folder, 2)
        before = saved(folder)
        while saved(folder) == before:  # an epoch is over
            time.sleep(0.002)
        time.sleep(0.01)
        os.kill(children[victim], signal_sent)
        codes = ends(children)
        found.setdefault("codes", []).append(codes)  # type: ignore[attr-defined]
        found.setdefault("records", []).append(len(trained(folder)))  # type: ignore[attr-defined]
        if (folder, victim) != (killed, 1):
            found.setdefault("ends", []).append(ends(start(folder, size)))  # type: ignore[attr-defined]
    one, two, three = (trained(folder) for folder in (calm, killed, fewer))
    found["trainings"] = [len(one), len(two), len(three)]
    found["equal"] = one[0].weights == two[0].weights
    found["passes"] = [of[0].cost.forwards for of in (one, two, three)]
    found["epochs"] = [len(of[0].history) for of in (one, two, three)]
    found["ranks"] = [of[0].history[-1].get("ranks", 1) for of in (one, two, three)]
    found["said"] = {path.parent.name + "/" + path.name: path.read_text()[-600:] for path in root.glob("*/said-*")}
    return found


def saved(folder: Path) -> int:
    """When the checkpoint was last written; 0 where there is none."""
    return max((path.stat().st_mtime_ns for path in folder.glob("results/store/scratch/*/checkpoint.pt")), default=0)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))  # noqa: T201
