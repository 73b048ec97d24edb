"""Audits: everyone chooses the same images, and the bound is the exact one."""

import json
from dataclasses import replace

import pytest
from scipy.stats import beta, hypergeom

from bench.audit import Audit, audited, behind, choose, seed_of
from bench.records import Record
from tests.bench.test_gate import standing
from tests.conftest import TINY

WORDS = ("audit", "--plugin", str(TINY), "--column", "slow", "--attack", "slow(pause=0.001)")


def test_everyone_chooses_the_same():
    """By beacon and keys alone, in any order of either; another beacon chooses others; all at most once."""
    first = choose("8 23 42", ["b", "a"], range(1000), 50)
    assert first == choose("8 23 42", ["a", "b", "a"], range(999, -1, -1), 50) and len(set(first)) == 50
    assert set(first) != set(choose("8 23 43", ["a", "b"], range(1000), 50))
    assert set(first) != set(choose("8 23 42", ["a"], range(1000), 50))
    assert choose("8 23 42", ["a", "b"], range(1000), 10) == first[:10]
    # The images, once and for all: a change of the rule would be another audit.
    assert choose("beacon", ["0" * 64], range(10), 4) == [3, 8, 4, 5] and seed_of("beacon") == 1420101831


def test_the_bound():
    """Clopper and Pearson's upper end, one-sided, by scipy; where all were attacked there is no doubt left."""
    a = Audit(standing(100, n=1000), 900, tuple(range(100)), (3, 4), ("x",), 0, 0.05, ())
    assert a.most == pytest.approx(beta.ppf(0.95, 3, 98)) and a.claimed == 0.9
    assert a.least == pytest.approx(0.9 * (1 - a.most))
    assert replace(a, fell=()).most == pytest.approx(1 - 0.05 ** (1 / 100))
    assert replace(a, survivors=100, fell=(1,)).most == 0.01


def test_the_bound_covers():
    """Drawn without replacement from few survivors the bound errs at most as often as it says."""
    for survivors, weak in ((200, 3), (200, 20), (200, 100)):
        wrong = sum(
            hypergeom.pmf(k, survivors, weak, 50)
            for k in range(min(weak, 50) + 1)
            if Audit(standing(0, n=survivors), survivors, tuple(range(50)), tuple(range(k)), (), 0, 0.05, ()).most
            < weak / survivors
        )
        assert wrong <= 0.05


def test_the_command(bench, here):
    """It attacks the survivors it chose, keeps records, and says the bound; again it asks nothing anew."""
    done = bench(*WORDS, "--images", "7", "--beacon", "x", "--model", "seed 1", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["audits"]
    (one,) = audited(here.ledger, "slow", "seed 1")
    keys = [r.key for r in behind(here.ledger, one)]
    assert len(keys) == 2
    survivors = sorted(set(range(one.n)) - one.fell)
    assert found["images"] == choose("x", keys, survivors, 7) and found["survivors"] == len(survivors)
    assert found["claimed"] == len(survivors) / one.n and found["fell"] == []
    (record,) = here.ledger.of(found["cells"][0], Record)
    assert (sorted(found["images"]), record.seed) == (record.asked, seed_of("x"))
    count = len(list(here.ledger.all()))
    assert json.loads(bench(*WORDS, "--images", "7", "--beacon", "x", "--model", "seed 1", "--json").stdout) == (
        json.loads(done.stdout)
    )
    assert len(list(here.ledger.all())) == count
    assert audited(here.ledger, "slow", "seed 1") == [one]  # the column is what it was


def test_whose_survivors(here):
    """A whole name is that model alone, a part of it all that have it, the beginning of a hash its weights."""
    both = audited(here.ledger, "slow", "quick")
    assert [s.model.seed for s in both] == [0, 1] == [s.model.seed for s in audited(here.ledger, "slow", "qui")]
    assert audited(here.ledger, "slow", "quick on tiny seed 1") == audited(here.ledger, "slow", both[1].weights[:9])
    assert [s.model.seed for s in audited(here.ledger, "slow", "")] == [0, 1]


def test_a_stronger_attack_is_seen(bench, here):
    """At the same threat a minimum-norm attack that takes all survivors of a weak column: the bound is 100 %."""
    words = ("audit", "--plugin", str(TINY), "--column", "slow", "--images", "500", "--beacon", "y", "--json")
    found = json.loads(bench(*words, "--attack", "walks").stdout)["audits"]
    assert len(found) == 2
    for a in found:
        assert len(a["images"]) == a["survivors"] and a["most"] == len(a["fell"]) / a["survivors"]


def test_wrong_words(bench, here):
    """A column, model or attack that is not there or of another norm, an empty beacon: usage, and the nearest."""
    for words, hint in (
        (("--beacon", "x", "--column", "slo"), "did you mean 'slow'"),
        (("--beacon", "x"), "--column says which"),
        (("--beacon", "x", "--column", "slow", "--model", "nobody"), "no model"),
        (("--beacon", "x", "--column", "slow", "--attack", "quiet"), "it searches l2"),
        (("--beacon", " ", "--column", "slow"), "--beacon is empty"),
        (("--column", "slow"), "--beacon"),
        (("a" * 10, "--beacon", "x"), "expected a ledger's folder"),
    ):
        done = bench("audit", *words, "--plugin", str(TINY))
        assert (done.returncode, hint in done.stderr) == (2, True), done.stderr
