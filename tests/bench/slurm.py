"""A Slurm of one machine in a temporary folder: its own munged, slurmctld and slurmd, started and stopped by a test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WITH_US = ("setpriv", "--pdeathsig", "TERM")  # a daemon ends when the tests do, however they end
PROGRAMS = (*WITH_US[:1], "munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
CONF = """ClusterName=rampart
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
CredType=cred/munge
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=10
PropagateResourceLimits=NONE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def absent() -> str:
    """Why there can be none here; empty where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"slurm: {', '.join(missing)} not found (apt install slurm-wlm)"
    return "" if os.geteuid() == 0 else "slurm: its daemons are started as root"


@contextmanager
def cluster() -> Iterator[Path]:
    """Its slurm.conf, while it runs with two cores."""
    root = Path(tempfile.mkdtemp(prefix="slurm-"))
    root.chmod(0o755)  # munged wants nobody else to write there
    (root / "munge.key").write_bytes(os.urandom(64))
    (root / "munge.key").chmod(0o600)
    for name in ("state", "spool"):
        (root / name).mkdir()
    conf = root / "slurm.conf"
    conf.write_text(CONF.format(root=root, host=socket.gethostname().partition(".")[0], ports=_free_ports()))
    env = os.environ | {"SLURM_CONF": str(conf)}
    munged = ["munged", "--foreground", "--force"] + [
        f"--{name}={root}/munge{end}"
        for name, end in (
            ("socket", ".sock"), ("key-file", ".key"), ("pid-file", ".pid"), ("seed-file", ".seed"),
            ("log-file", ".log"),
        )
    ]  # fmt: skip
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for words in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (root / f"{words[0]}.out").open("wb") as out:
                daemons.append(
                    subprocess.Popen([*WITH_US, *words], env=env, stdout=out, stderr=out, start_new_session=True)
                )
            time.sleep(1.0)
        _await_idle(root, env)
        yield conf
    finally:
        subprocess.run(["scancel", "--state=RUNNING"], env=env, check=False, capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            daemon.wait(30)
        shutil.rmtree(root, ignore_errors=True)


def _await_idle(root: Path, env: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = subprocess.run(["sinfo", "-h", "-o", "%t"], env=env, check=False, capture_output=True, text=True)
        if found.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in (*root.glob("*.log"), *root.glob("*.out")))
    raise RuntimeError(f"the cluster did not start: {found.stdout}{found.stderr}\n{logs}")


def _free_ports() -> list[int]:
    """Two that nobody uses now."""
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def running() -> list[str]:
    """The jobs that run now."""
    asked = ["squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()


def hurry() -> None:
    """Start now what is queued again: Slurm waits two minutes by itself."""
    asked = ["squeue", "-h", "-r", "-t", "PENDING", "-o", "%i"]
    for job in subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split():
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False, capture_output=True)
