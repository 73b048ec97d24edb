"""What doctor says of a cluster: what is there, what is missing, and the mend; on one machine it stops nothing."""

import resource
import subprocess

import pytest

from bench import doctor_cluster
from bench.doctor_cluster import cluster


def found(tmp_path):
    return {finding.what: finding for finding in cluster(tmp_path / "ledger", tmp_path / "store")}


@pytest.fixture
def sinfo(tmp_path, monkeypatch):
    """A program of that name, which says what it is given, with an exit code."""

    def make(said, code=0):
        program = tmp_path / "bin" / "sinfo"
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f"#!/bin/sh\n[ \"$1\" = --version ] && echo 'slurm-wlm 22.05' && exit 0\n{said}\nexit {code}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return make


def test_a_machine_without_a_cluster_is_fine(tmp_path, monkeypatch):
    """Neither Slurm nor Ray is looked for, and nothing is wrong."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said = found(tmp_path)
    assert "slurm" not in said and not any("shared" in what for what in said)
    assert all(finding.state != "wrong" for finding in said.values())
    assert said["bubblewrap"].state == "note" and "apt install bubblewrap" in said["bubblewrap"].mend


def test_partitions_and_working_nodes_are_counted(tmp_path, sinfo):
    """Of two partitions, three nodes work; the folders of a run must be shared, and those of this test are not."""
    sinfo("echo 'gpu* up 2 idle'; echo 'gpu* up 1 mixed'; echo 'long up 4 down'")
    said = found(tmp_path)
    assert said["slurm"].state == "fine"
    assert said["slurm"].said == "slurm-wlm 22.05: partitions gpu, long; 3 nodes that work"
    assert said["--ledger is shared"].state == "note" and "storage that all machines" in said["--store is shared"].mend


def test_a_controller_that_does_not_answer_is_named(tmp_path, sinfo):
    """sinfo's own words, and who to ask."""
    sinfo("echo 'slurm_load_partitions: Unable to contact slurm controller' >&2", 1)
    finding = found(tmp_path)["slurm"]
    assert finding.state == "note" and "Unable to contact" in finding.said and "slurmctld must run" in finding.mend


def test_shared_file_systems_are_known_by_their_mount(tmp_path, sinfo, monkeypatch):
    """The longest mount above a folder decides."""
    sinfo("echo 'gpu up 1 idle'")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(doctor_cluster, "MOUNTS", mounts)
    assert found(tmp_path)["--ledger is shared"].state == "fine"


def test_few_open_files_are_a_hint(tmp_path, monkeypatch):
    """With the command that raises the limit."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (256, 4096))
    finding = found(tmp_path)["open files"]
    assert finding.state == "note" and finding.mend == "ulimit -n 4096"


def test_a_hanging_sinfo_is_not_waited_for(tmp_path, sinfo, monkeypatch):
    """A cluster that does not answer in time is a note."""
    sinfo("true")

    def never(*_words, **_settings):
        raise subprocess.TimeoutExpired("sinfo", 20)

    monkeypatch.setattr(subprocess, "run", never)
    assert "does not answer" in found(tmp_path)["slurm"].said
