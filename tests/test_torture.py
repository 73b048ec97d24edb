"""A run that is killed again and again loses nothing and does nothing twice; `make torture` is the long form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture import Held, Tally, table

ROOT = Path(__file__).parents[1]


def tortured(kills, seed=0):
    """What the program found."""
    words = [sys.executable, "-m", "tests.torture", "--kills", str(kills), "--seed", str(seed)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_dozen_kills():
    """At random moments of training and attacking: the hash of everything is that of the undisturbed run."""
    found = tortured(12)
    assert (found["all"], found["wrong"]) == (12, [])
    assert set(found["hashes"]) == {found["calm"]}
    assert found["starts"] > 12


@pytest.mark.slow
def test_two_hundred_kills():
    """Over training, attacking, writing and publishing, in many rounds."""
    found = tortured(200, seed=2)
    assert (found["all"], found["wrong"]) == (200, [])
    assert set(found["hashes"]) == {found["calm"]}
    assert min(found["kills"][phase] for phase in ("training", "attacking", "writing", "publishing")) >= 10


def test_the_hash_sees_every_verdict():
    """One image that fell, one asked less, another weight: each another hash."""
    calm = Held((("a", "w"),), (("k", (0, 1), (1,)),), (("k", "f"),), ())
    others = [
        Held((("a", "v"),), calm.verdicts, calm.figures, ()),
        Held(calm.trainings, (("k", (0, 1), ()),), calm.figures, ()),
        Held(calm.trainings, (("k", (0,), ()),), calm.figures, ()),
        Held(calm.trainings, calm.verdicts, (("k", "g"),), ()),
    ]
    assert len({calm.hash, *(other.hash for other in others)}) == 5


def test_the_table_counts_what_it_says():
    """Rows of all phases, and the sum."""
    tally = Tally(starts=5, rounds=1, hashes=["ab" * 32], calm="ab" * 32)
    tally.kills.update({"training": 3, "writing": 1})
    lines = table(tally).splitlines()
    assert "| training | 3 |" in lines and "| publishing | 0 |" in lines and "| all | 4 |" in lines
    assert "equal to the undisturbed run's in every round" in lines[-1]
    tally.hashes.append("cd" * 32)
    assert "NOT equal" in table(tally)
