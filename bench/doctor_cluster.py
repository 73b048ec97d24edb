"""What runs on more than one process need: Slurm, Ray, shared folders, open files."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.zoo import Finding

MOUNTS = Path("/proc/self/mounts")
LITTLE_FILES = 1024  # open files of a process; each worker holds some, and a large data set may be many
SHARED = {
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "cifs", "smb3", "afs", "panfs", "9p", "glusterfs",
    "fuse.glusterfs", "pvfs2", "wekafs", "virtiofs",
}  # fmt: skip


def cluster(ledger: Path, store: Path) -> Iterator[Finding]:
    """All of it; where there is no cluster, only what concerns one machine."""
    yield _open_files()
    yield _sandbox()
    slurm, ray = shutil.which("sinfo"), os.environ.get("RAY_ADDRESS", "")
    yield _library("submitit", "slurm", needed=slurm is not None)
    if slurm is not None:
        yield _slurm()
    yield _library("ray", "ray", needed=bool(ray))
    if slurm is not None or ray:
        yield from (_shared(option, folder) for option, folder in (("--ledger", ledger), ("--store", store)))


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= LITTLE_FILES:
        return Finding("open files", "fine", "any number" if soft == resource.RLIM_INFINITY else f"{soft:,} a process")
    more = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    return Finding("open files", "note", f"{soft:,} a process; many workers need more", f"ulimit -n {more}")


def _sandbox() -> Finding:
    found = shutil.which("bwrap")
    if found:
        return Finding("bubblewrap", "fine", found)
    return Finding(
        "bubblewrap", "note", "not found: it keeps foreign models from this machine", "apt install bubblewrap"
    )


def _library(name: str, extra: str, *, needed: bool) -> Finding:
    try:
        return Finding(name, "fine", version(name))
    except PackageNotFoundError:
        mend = f"pip install 'rampart-bench[{extra}]'"
        return Finding(name, "note", f"not installed: --executor {extra} needs it", mend if needed else "")


def _slurm() -> Finding:
    """Whether its controller answers, and what there is."""
    try:
        asked = ["sinfo", "--noheader", "--format=%P %a %D %T"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
        said = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("slurm", "note", f"sinfo does not answer: {error}", "ask who runs the cluster")
    if found.returncode:
        reason = next(iter(found.stderr.strip().splitlines()), "it does not say why")
        mend = "slurmctld must run, and SLURM_CONF name its slurm.conf; ask who runs the cluster"
        return Finding("slurm", "note", f"sinfo finds no cluster: {reason}", mend)
    partitions = sorted({line.split()[0].rstrip("*") for line in found.stdout.splitlines() if line.strip()})
    nodes = sum(
        int(line.split()[2]) for line in found.stdout.splitlines() if re.match(r"\S+ up \d+ (idle|mix|alloc)", line)
    )
    state = "fine" if nodes else "note"
    words = f"{said.strip()}: partitions {', '.join(partitions)}; {nodes} nodes that work"
    return Finding("slurm", state, words, "" if nodes else "sinfo says why no node works")  # type: ignore[arg-type]


def _shared(option: str, folder: Path) -> Finding:
    """Whether other machines see a folder, as far as its file system tells."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    kind = _file_system(there)
    if kind in SHARED:
        return Finding(f"{option} is shared", "fine", f"{there} is {kind}")
    said = f"{there} is {kind or 'of a file system that is not known'}, which other machines may not see"
    return Finding(f"{option} is shared", "note", said, f"{option} on storage that all machines of the cluster share")


def _file_system(path: Path) -> str:
    """The type of what is mounted at a path, or above it."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return ""
    found = [(mount.replace("\\040", " "), kind) for _, mount, kind, *_ in (line.split(" ") for line in lines)]
    fitting = [(len(mount), kind) for mount, kind in found if path.is_relative_to(mount)]
    return max(fitting)[1] if fitting else ""
