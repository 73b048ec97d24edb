"""bench ledger merge: by whomever, of what is damaged, of what disagrees, killed and two at once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bench.files import INCOMING
from bench.ledger import Ledger
from bench.ledger_check import FIGURES
from bench.records import Record, TrainingRecord
from tests.bench.ledgers import ROOT, WORDS, attack, documents, flipped, halves, here, ledger, made, rewritten
from tests.bench.test_ledger import RECORD, record

__all__ = ["here", "made"]  # fixtures


def test_merging_is_copying_whoever_does_it(bench, here):
    """bench ledger merge, git merge and a plain copy give the same files; a second merge brings nothing."""
    whole = here / "ledger"
    shutil.rmtree(whole / INCOMING, ignore_errors=True)
    halves(whole, here / "a", here / "b")
    done, found = ledger(bench, "merge", "a", "b", "--ledger", "merged")
    assert (done.returncode, found["refused"], found["conflicts"]) == (0, [], [])
    assert documents(here / "merged") == documents(whole)
    again = ledger(bench, "merge", "a", "b", "--ledger", "merged")[1]
    assert (again["came"], again["there"] > 13) == ({}, True)
    copier = ("rsync", "-a", "--ignore-existing") if shutil.which("rsync") else ("cp", "-Rn")
    (here / "copied").mkdir()
    for source in ("a", "b"):
        subprocess.run([*copier, f"{source}/.", "copied/"], cwd=here, check=True)
    assert documents(here / "copied") == documents(whole)
    git = here / "git"
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")

    def say(*words):
        subprocess.run(["git", *author, *words], cwd=git, check=True, capture_output=True)

    git.mkdir()
    say("init", "-qb", "main")
    say("commit", "-q", "--allow-empty", "-m", "nothing")
    for source in ("a", "b"):
        say("checkout", "-qb", source, "main")
        shutil.copytree(here / source, git / "ledger")
        say("add", "-A")
        say("commit", "-qm", source)
    say("merge", "-q", "-m", "both", "a")
    assert documents(git / "ledger") == documents(whole)
    assert bench("ledger", "verify", "--ledger", "git/ledger").returncode == 0


def test_merging_brings_the_tensors_that_records_name(bench, here):
    """With --from-store the whole of a ledger verifies elsewhere, and a run there has nothing to do."""
    (here / "store" / "aa").mkdir(exist_ok=True)
    (here / "store" / "aa" / f"aa{'0' * 62}.safetensors").write_bytes(b"nobody's")
    words = ("merge", "ledger", "--from-store", "store", "--ledger", "l2", "--store", "s2")
    assert ledger(bench, *words)[1]["came"]["tensor file"] > 2
    assert not list((here / "s2").glob("aa/*"))
    assert bench("ledger", "verify", "--ledger", "l2", "--tensors", "--store", "s2").returncode == 0
    done = bench(*WORDS, "--defense", "quick", "-n", "40", "--ledger", "l2", "--store", "s2")
    assert "Nothing to do" in done.stderr


def test_what_is_damaged_is_refused_and_the_rest_comes(bench, here):
    """A flipped bit, a sidecar that is gone, a newer schema: each named, none copied; a damaged file here stays."""
    bad = flipped(attack(here / "ledger", "slow"))
    short = attack(here / "ledger", "walks")
    next(short.parent.glob("*.safetensors")).unlink()
    newer = rewritten(attack(here / "ledger", "clean"), lambda t: t.replace("record-1", "record-2"))
    done, found = ledger(bench, "merge", "ledger", "--ledger", "other")
    assert done.returncode == found["exit_code"] == 5
    assert {Path(f["path"]).parent.name for f in found["refused"]} == {p.parent.name for p in (bad, short, newer)}
    assert found["came"]["record"] == 3
    assert bench("ledger", "verify", "--ledger", "other").returncode == 0
    mine = flipped(attack(here / "other", "slow"))
    content = mine.read_bytes()
    done, found = ledger(bench, "merge", "ledger", "--ledger", "other")
    assert done.returncode == 5 and mine.read_bytes() == content
    assert mine.name in {Path(f["path"]).name for f in found["refused"]}


def test_mistakes_of_merging(bench, here):
    """No such folder, itself, a store that is not there: usage errors, and nothing is made."""
    for words in (("nowhere",), ("ledger", "--ledger", "ledger"), ("ledger", "--from-store", "nowhere"), (".",)):
        done = bench("ledger", "merge", *words, *(() if "--ledger" in words else ("--ledger", "new")))
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), words
    assert "did you mean ledger?" in done.stderr
    assert bench("ledger", "merge").returncode == 2


def sidecar(where, one, **changes):
    """A record with a sidecar that fits it."""
    figures = {name: np.zeros(len(one.asked), np.float32 if name in {"margin", "distance"} else np.int32)
               for name in FIGURES}  # fmt: skip
    figures["forwards"][0], figures["backwards"][0] = one.cost.forwards, one.cost.backwards
    name = where.put_images(one.key, figures | changes)
    return one.model_copy(update={"images": name})


def test_records_that_disagree_are_told(bench, tmp_path):
    """Fallen wins; on one kind of machine it is a doubt, between two it is none; agreeing records are no conflict."""
    a, b, c = (Ledger(tmp_path / name) for name in "abc")
    elsewhere = RECORD["machine"] | {"device": "cuda", "name": "an accelerator"}
    a.add(sidecar(a, record(asked=[1, 2, 3], fell=[1])))
    b.add(sidecar(b, record(asked=[2, 3, 4], fell=[2], machine=elsewhere)))
    c.add(sidecar(c, record(asked=[3, 5, 6], fell=[3, 5])))
    done, found = ledger(bench, "merge", "a", "b", "--ledger", "ab")
    (conflict,) = found["conflicts"]
    assert (conflict["images"], conflict["alike"], "fallen wins" in done.stderr) == ([2], False, True)
    assert "a doubt" not in done.stderr
    done, found = ledger(bench, "merge", "a", "c", "--ledger", "ac")
    assert [(x["images"], x["alike"]) for x in found["conflicts"]] == [([3], True)] and "a doubt" in done.stderr
    assert ledger(bench, "merge", "b", "--ledger", "b2")[1]["conflicts"] == []


def test_trainings_that_disagree_are_told(bench, here):
    """The same recipe and seed with other weights: both are kept, and it is said."""
    one = next(d for d in Ledger(here / "ledger").all() if isinstance(d, TrainingRecord))
    other = one.model_copy(update={"weights": {"best": "1" * 64, "last": "1" * 64}})
    Ledger(here / "b").add(other)
    found = ledger(bench, "merge", "b", "--ledger", "ledger")[1]
    (conflict,) = found["conflicts"]
    assert "to different weights" in conflict["said"] and one.label in conflict["said"]
    assert len(Ledger(here / "ledger").of(one.key, TrainingRecord)) == 2


def test_two_merges_at_once_and_one_is_killed(here):
    """Kill -9 at any moment: what is there is whole; two at once, and a second start, give everything."""
    source = Ledger(here / "source")
    for seed in range(150):
        source.add(sidecar(source, record(seed=seed)))
    command = [sys.executable, "-m", "bench", "ledger", "merge", "source", "--ledger", "into"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=here, env=env, stderr=subprocess.DEVNULL) as first:
        while first.poll() is None and len(list((here / "into").glob("*/*.json"))) < 40:
            time.sleep(0.002)
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL
    into = Ledger(here / "into")
    there = list(into.all())
    assert 40 <= len(there) < 150
    assert all(isinstance(d, Record) and into.images(d) for d in there)
    two = [subprocess.Popen(command, cwd=here, env=env, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in two] == [0, 0]
    assert documents(into.root) == documents(source.root) and not list(into.root.rglob("*.part"))
