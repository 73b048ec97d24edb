"""Tasks for executors: some end well, some badly, and each writes down that it was begun."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageError
from bench.place import Place
from bench.records import Document


@dataclass(frozen=True)
class Job:
    """Something to do, as a word."""

    number: int
    word: str = ""
    pause: float = 0.0

    @property
    def name(self) -> str:
        """As its log is called."""
        return f"job-{self.number}"

    def __str__(self) -> str:
        return f"job {self.number}"

    def do(self, place: Place) -> list[Document]:
        """What the word says."""
        tries = self.begun(place)
        time.sleep(self.pause)
        match self.word:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "killed once" if tries == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            case "crashes":
                sys.stderr.write("about to crash\n")
                ctypes.string_at(0)
            case "exits":
                os._exit(7)
            case "raises":
                raise ZeroDivisionError("nine")
            case "hangs":
                time.sleep(1000)
            case "stops":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "works in steps":  # of which it has some left after any interruption
                for _ in range(40):
                    time.sleep(0.1)
            case "shows its card":
                (Path(place.ledger_root) / f"card-{os.environ['CUDA_VISIBLE_DEVICES']}").touch()
            case "explains":
                raise UsageError("it cannot be")
        (Path(place.ledger_root) / f"{self.number}.done").touch()
        return []

    def begun(self, place: Place) -> int:
        """Write down that it is begun, and by whom; how often it was by now."""
        root = Path(place.ledger_root)
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{self.number}.{os.getpid()}.{time.monotonic_ns()}").touch()
        return len(list(root.glob(f"{self.number}.*")))
