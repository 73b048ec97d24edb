"""Where foreign code runs: a child process that sees no data, no ledger and no network, and may take only so much."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, get_args

from bench.confine import known
from bench.errors import UsageError
from bench.registry import GROUP

Mode = Literal["bubblewrap", "limits"]
MODES = get_args(Mode)
SCRATCH_SIZE = 256 << 20  # bytes of the temporary folder
PATIENCE = 100  # a training may be silent for so many times the seconds of a pass
_KEPT = ("OMP_", "MKL_", "KMP_", "GOMP_", "ONEDNN_", "DNNL_", "ATEN_", "LC_", "LANG")  # what arithmetic may depend on
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/nix", "/etc/ld.so.cache", "/etc/ld.so.conf",
           "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/sys/devices/system/cpu")  # fmt: skip
_ARRAYS = {".npz", ".npy", ".gz", ".mat", ".pt", ".parquet", ".safetensors"}  # in a package: data, which is not shown
_SETS = ("sklearn/datasets/data",)  # data sets that other packages bring
_START = "from bench.inmate import main; main()"


@dataclass(frozen=True)
class Fence:
    """How a plugin is kept apart; plain values, so that it travels to other processes."""

    mode: Mode = "bubblewrap"
    memory: int = 4 << 30  # bytes, beside those that torch takes by itself
    seconds: float = 300.0  # of a pass
    hidden: tuple[str, ...] = ()  # folders that are never shown: ledger, store, data

    @property
    def gib(self) -> str:
        """The memory, for messages."""
        return f"{self.memory / 2**30:g} GiB"

    def check(self) -> None:
        """UsageError where this machine cannot keep a plugin apart in this way."""
        if not known():
            raise UsageError("--sandbox works on Linux on x86_64 and aarch64; this is another machine")
        reason = _unable() if self.mode == "bubblewrap" else ""
        if reason:
            raise UsageError(
                f"--sandbox: {reason}; install bubblewrap and allow user namespaces, or say --sandbox=limits: "
                "then memory, time, processes and sockets are limited, but the plugin can read and write the files "
                "that you can, labels and the ledger too"
            )

    def start(
        self, files: Sequence[str], *, shown: Sequence[Path] = (), written: Sequence[Path] = ()
    ) -> tuple[subprocess.Popen[bytes], socket.socket, str]:
        """A child that waits for messages, the other end of its wire, and a folder to remove after it, or nothing.

        shown: folders that it may read; written: that it may write.
        """
        ours, its = socket.socketpair()
        own = tempfile.mkdtemp(prefix="rampart-sandbox-") if self.mode == "limits" else ""
        packages = [path for path in _packages() if path.is_dir()]
        fenced = self._bubble(files, packages, shown, written) if self.mode == "bubblewrap" else []
        environment = {k: v for k, v in os.environ.items() if k.startswith(_KEPT)} | {
            "PATH": "/usr/bin:/bin", "HOME": own or "/tmp", "TMPDIR": own or "/tmp", "USER": "sandbox",  # noqa: S108
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(str(path.parent) for path in packages)),
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        with its:
            child = subprocess.Popen(
                [*fenced, sys.executable, "-c", _START, str(its.fileno())], pass_fds=[its.fileno()], env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=own or "/",
                start_new_session=True,
            )  # fmt: skip
        return child, ours, own

    def _bubble(
        self, files: Sequence[str], packages: Sequence[Path], shown: Sequence[Path], written: Sequence[Path]
    ) -> list[str]:
        """bubblewrap, which shows the interpreter, the packages and the plugins, and nothing else."""
        words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--hostname", "sandbox"]
        prefixes = dict.fromkeys(Path(p) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix))
        words += ["--proc", "/proc", "--dev", "/dev", "--size", str(SCRATCH_SIZE), "--tmpfs", "/tmp"]  # noqa: S108
        for path in (*map(Path, _SYSTEM), *prefixes, Path(os.path.realpath(sys.executable)).parent, *packages):
            if path.is_symlink():
                words += ["--symlink", os.readlink(path), str(path)]
            elif path.exists():
                words += ["--ro-bind", str(path), str(path)]
        bound = [*map(Path, _SYSTEM), *prefixes, *packages]
        for path in _data(packages):
            words += ["--ro-bind", "/dev/null", str(path)]
        sets = [Path(p) / name for p in sys.path for name in _SETS]
        for path in (*sets, *(Path(h).absolute() for h in self.hidden)):
            if path.is_dir() and any(path.is_relative_to(b) for b in bound):
                words += ["--tmpfs", str(path)]
        for path in (*map(Path, files), *shown):
            words += ["--ro-bind", str(path), str(path)]
        for path in written:
            words += ["--bind", str(path), str(path)]
        return [*words, "--chdir", "/tmp", "--"]  # noqa: S108


def _packages() -> Iterator[Path]:
    """The folders of the core, and of the packages that bring the built-in plugins."""
    yield Path(__file__).resolve().parent
    for entry in entry_points(group=GROUP):
        found = importlib.util.find_spec(entry.value.partition(".")[0])
        yield from (Path(place).resolve() for place in (found and found.submodule_search_locations) or ())


def _data(packages: Sequence[Path]) -> Iterator[Path]:
    """Files of packages that hold data, such as images and labels."""
    for folder in packages[1:]:
        yield from (path for path in sorted(folder.rglob("*")) if path.suffix in _ARRAYS and path.is_file())


@cache
def _unable() -> str:
    """Why bubblewrap cannot be used here; empty where it can."""
    if shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not start: {error}"
    return f"bubblewrap cannot make a sandbox here: {done.stderr.strip()[:200]}" if done.returncode else ""
