"""Where a record was made: machine, versions, commit, and the source of what ran."""

from __future__ import annotations

import hashlib
import inspect
import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.foreign import file_of
from bench.records import Machine

if TYPE_CHECKING:
    from bench.recipe import Plugin


def about(device: torch.device, tile: int, sandbox: str = "") -> dict[str, Any]:
    """The fields machine, versions, commit and made of a record."""
    name, threads = _name(device.type), torch.get_num_threads()
    return {
        "machine": Machine(device=device.type, name=name, threads=threads, tile=tile, sandbox=sandbox),
        "versions": _versions(),
        "commit": _commit(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def source_hash(plugin: Plugin) -> str:
    """The sha256 of the file that a plugin is written in."""
    file = file_of(plugin) or inspect.getsourcefile(inspect.unwrap(plugin.function))
    return hashlib.sha256(Path(file).read_bytes() if file and Path(file).is_file() else b"").hexdigest()


@lru_cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("rampart-bench", "torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@lru_cache
def _name(kind: str) -> str:
    """The processor's or accelerator's name."""
    if kind == "cuda":
        return torch.cuda.get_device_name()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@lru_cache
def _commit() -> str:
    """The commit of Rampart's own checkout, `+` when it was changed since; empty when it is no checkout."""
    home = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(home), *words], capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != home:
            return ""
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""
