"""A net that does what a plugin must not, each time in its forward pass; for tests of the sandbox."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from bench import net

HOME = Path(__file__).resolve().parents[2]


def _write_everywhere(data: bytes) -> None:
    """Into every file that this process has open, the bench's socket among them."""
    for fd in range(3, 65_536):
        try:
            os.write(fd, data)
        except OSError:
            continue


def labels() -> None:
    """Reads the labels of the test images."""
    import numpy as np

    np.load(HOME / "data" / "digits.npz")["y"]


def neighbours() -> None:
    """Looks for anything of the user's."""
    found = [
        p
        for p in (HOME / "tests" / "conftest.py", HOME / "pyproject.toml", Path("/home"), Path("/root/.ssh"))
        if p.exists()
    ]
    others = [p for p in Path("/proc").iterdir() if p.name.isdigit() and int(p.name) not in {1, os.getpid()}]
    raise LookupError(f"found {len(found)} files and {len(others)} processes")


def network() -> None:
    """Opens a connection."""
    socket.create_connection(("127.0.0.1", 9), timeout=1)


def forks() -> None:
    """Makes processes without end."""
    while True:
        os.fork()


def program() -> None:
    """Starts a program."""
    subprocess.run(["/bin/true"], check=True)


def kills() -> None:
    """Ends the process that started it."""
    os.kill(os.getppid(), signal.SIGKILL)


def memory() -> None:
    """Takes all memory."""
    held = []
    while True:
        held.append(bytearray(64 << 20))


def disk() -> None:
    """Fills its temporary folder."""
    with open("/tmp/much", "wb") as file:
        while True:
            file.write(b"0" * (8 << 20))


def sleeps() -> None:
    """Never answers."""
    time.sleep(1e6)


def exits() -> None:
    """Ends without a word."""
    os._exit(0)


def quits() -> None:
    """Ends as a program does."""
    raise SystemExit(0)


def raises() -> None:
    """Fails, in many words that would move a terminal's cursor."""
    raise ValueError("\x1b[2J" + "no\n" * 5000)


def garbage() -> None:
    """Writes into the pipe."""
    _write_everywhere(b"\x80\x04K\x01." * 100)


def much() -> None:
    """Says that an endless answer follows."""
    _write_everywhere(b"RMP1" + (102).to_bytes(2, "little") + bytes(6) + (2**40).to_bytes(8, "little"))


def patches() -> None:
    """Makes every comparison come out well, and every number a zero."""
    torch.Tensor.argmax = lambda self, *_a, **_k: torch.zeros(len(self), dtype=torch.long)
    torch.isfinite = torch.Tensor.isfinite = lambda self: torch.ones_like(self, dtype=torch.bool)


def nothing() -> None:
    """What is expected of it."""


class Hostile(nn.Module):
    """A linear model that first does something else."""

    def __init__(self, what: str, pixels: int, classes: int) -> None:
        super().__init__()
        self.what, self.linear = what, nn.Linear(pixels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        if x.is_meta:  # its multiply-adds are counted
            return self.linear(x.flatten(1))
        if self.what == "nan":
            return self.linear(x.flatten(1)) * torch.nan
        if self.what == "shape":
            return x
        globals()[self.what]()
        return self.linear(x.flatten(1))


@net()
def hostile(*, classes: int, channels: int, size: int, what: str = "nothing", built: str = "nothing") -> nn.Module:
    """A linear model, and more."""
    globals()[built]()
    return Hostile(what, channels * size * size, classes)
