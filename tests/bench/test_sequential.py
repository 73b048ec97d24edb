"""The sequential gate is valid at any stop: exact sums, simulated gates, verdicts by hand, and the loop of the docs."""

import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.errors import UsageError
from bench.exam import digest
from bench.gate import Rules, check_order, compare
from bench.gate_report import page, sentences, verdict
from bench.ledger import Ledger
from bench.records import DatasetCard
from bench.sequential import comes_sorted, evidence, first_at, smallest_settled, wealth
from bench.standing import Standings
from tests.bench.test_gate import NOBODY, PGD, gate, standing
from tests.conformance.power import crossings, simulate
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]


def test_one_image_by_hand():
    """A lost image makes one and a half of one, a gained one half of it, others change nothing: bets average a half."""
    for counts, expected in (((1, 0), 1.5), ((0, 1), 0.5), ((0, 0), 1.0)):
        assert math.exp(wealth(*counts, 1, 0.0)) == pytest.approx(expected)
        assert math.exp(wealth(*reversed(counts), 1, 0.0, against=True)) == pytest.approx(expected)
    # With a tolerated drop of a quarter, the largest bet is 4/5 on a drop and 4/3 against it: mean bets 2/5 and 2/3.
    assert math.exp(wealth(1, 0, 1, 0.25)) == pytest.approx(1 + 0.4 * 0.75)
    assert math.exp(wealth(0, 0, 1, 0.25, against=True)) == pytest.approx(1 + 2 / 3 * 0.25)


@pytest.mark.parametrize("against", [False, True])
@pytest.mark.parametrize(("margin", "change"), [(0.0, 0.3), (0.1, 0.3), (0.02, 0.9), (0.5, 0.5), (1.0, 1.0)])
def test_nobody_gains_by_betting_where_there_is_nothing(margin, change, against):
    """Over all courses of seven images, whose drop is the margin, the mean of what the gamblers have is 1."""
    chances = {1: (change + margin) / 2, -1: (change - margin) / 2, 0: 1 - change}
    total = 0.0
    for course in itertools.product(chances, repeat=7):
        counts = (course.count(1), course.count(-1), 7)
        total += math.prod(chances[d] for d in course) * math.exp(wealth(*counts, margin, against=against))
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize(("margin", "change"), [(0.0, 0.03), (0.0, 0.2), (0.02, 0.03), (0.02, 0.2)])
def test_false_alarms_are_as_rare_as_promised_at_any_stop(margin, change):
    """10,000 simulated gates whose true drop is the margin, looked at after every image: at most 5 % ever alarm."""
    lost, gained = (side[:, :400] for side in simulate(margin, change, margin))
    for against in (False, True):
        alarms = (crossings(lost, gained, margin, against=against) <= 400).mean()
        assert 0 < alarms <= 0.05 + 3 * (0.05 * 0.95 / 10_000) ** 0.5


def test_a_sequence_is_judged_by_its_largest_evidence():
    """The evidence after each image is that of its counts, and never falls; where it crosses is where it says."""
    rng = np.random.default_rng(0)
    lost = rng.random(300) < 0.2
    gained = ~lost & (rng.random(300) < 0.05)
    found = evidence(lost, gained, 0.01)
    plain = [float(wealth(lost[:n].sum(), gained[:n].sum(), n, 0.01)) for n in range(1, 301)]
    assert found.worse == pytest.approx(np.maximum.accumulate(plain))
    at = first_at(found.worse, 0.05)
    assert plain[at - 1] >= math.log(20) > max(plain[: at - 1])
    assert first_at(found.no_worse, 0.05) is None
    assert evidence([], []).p_worse == 1.0


def test_the_smallest_drop_that_settles():
    """One image less does not; None where none does."""
    n, gained = 400, 7
    smallest = round(smallest_settled(gained, n, 0.05, 0.02) * n) + gained
    assert wealth(smallest, gained, n, 0.02) >= math.log(20) > wealth(smallest - 1, gained, n, 0.02)
    assert smallest_settled(0, 4, 0.05) is None


def test_verdicts_by_hand():
    """Lost images settle as regressed, unchanged ones as no worse within a tolerance, few settle nothing."""
    worse = gate([standing(10, n=500)], [standing(range(60), n=200, weights="b")], sequential=True)
    (found,) = worse.comparisons
    assert (found.verdict, worse.exit_code, found.planned, found.fewer) == ("regressed", 3, 500, True)
    # Ten fell before; then every image is lost, and the mean of (1 + bet)^k reaches 20 with the seventh.
    assert found.settled_after == 10 + next(k for k in range(20) if wealth(k, 0, 10 + k, 0.0) >= math.log(20))
    same = [standing(10, n=500)], [standing(10, n=300, weights="b")]
    held = gate(*same, sequential=True, max_drop=2.0, strict=True)
    assert (held.comparisons[0].verdict, held.exit_code) == ("no worse", 0)
    assert held.comparisons[0].settled_after == next(
        n for n in range(1, 400) if wealth(0, 0, n, 0.02, against=True) >= math.log(20)
    )
    assert "292 of them need not be asked" in " ".join(sentences(held))
    for rules, code in (({"strict": True}, 4), ({}, 0)):
        unsure = gate(*same, sequential=True, **rules)  # without a tolerance only a gain is no worse
        assert (unsure.comparisons[0].verdict, unsure.exit_code) == ("go on", code)
    assert "bench run -n 600" in " ".join(sentences(unsure)) and "not settled yet" in verdict(unsure)
    assert "| go on |" in page(unsure)
    equal = gate([standing(10)], [standing(10, n=20)], sequential=True, strict=True)
    assert (equal.comparisons[0].verdict, equal.comparisons[0].settled_after) == ("no worse", 0)  # the same weights


@pytest.mark.parametrize(("margin", "drop"), [(0.0, 0.0), (0.0, 0.06), (0.05, 0.0)])
def test_the_gate_says_what_was_simulated(margin, drop):
    """The verdicts of 300 gates are those of the crossings that the tables of docs/ci.md count."""
    lost, gained = (side[:300, :250] for side in simulate(margin, 0.1, drop))
    worse, better = (crossings(lost, gained, margin, against=against) for against in (False, True))
    for i in range(300):
        sides = (set(np.flatnonzero(np.diff(side[i], prepend=0)).tolist()) for side in (gained, lost))
        before, now = (standing(fell, n=250, weights=name) for fell, name in zip(sides, "ab", strict=True))
        (found,) = gate([before], [now], sequential=True, max_drop=100 * margin).comparisons
        first = min(int(worse[i]), int(better[i]))
        expected = "go on" if first > 250 else "regressed" if worse[i] <= better[i] else "no worse"
        assert (found.verdict, found.settled_after) == (expected, None if first > 250 else first)


def test_what_was_settled_first_stays():
    """A model that was found worse on the first images is not cleared by later ones, as nobody would have seen them."""
    lost, gained = set(range(40)), set(range(100, 400))
    report = gate([standing(gained, n=500)], [standing(lost, n=500, weights="b")], sequential=True)
    assert report.comparisons[0].drop < 0
    assert (report.comparisons[0].verdict, report.exit_code) == ("regressed", 3)


def test_every_column_of_the_baseline_counts_from_the_first_look_on():
    """What is missing may come: 5 of 5 lost settle one comparison, and not one of three."""
    others = [standing(0, question=PGD._replace(attacks=(f"{name}@1()",))) for name in ("cw", "mim")]
    now = [standing(7, weights="b")]
    assert gate([standing(0)], now, sequential=True).exit_code == 3
    three = gate([standing(0), *others], now, sequential=True)
    assert (three.exit_code, len(three.missing)) == (0, 2)
    assert three.comparisons[0].adjusted == pytest.approx(min(1, 3 * three.comparisons[0].p_value))


def test_seeds_are_compared_one_by_one():
    """Sequential evidence is about weights, not about a method over seeds."""
    sides = [
        [standing(10 + fall, model=NOBODY._replace(seed=seed), weights=name) for seed, name in enumerate(names)]
        for fall, names in ((0, "ab"), (30, "cd"))
    ]
    report = gate(*sides, sequential=True)
    assert [(len(c.now), c.verdict) for c in report.comparisons] == [(1, "regressed"), (1, "regressed")]


def test_images_sorted_by_class_are_refused(tmp_path):
    """The labels of the ledger's card tell; random labels, and all of one class, are fine."""
    rng = np.random.default_rng(0)
    mixed = rng.integers(0, 10, 500)
    assert comes_sorted(np.sort(mixed)) and comes_sorted(np.repeat(np.arange(100), 5))
    assert not comes_sorted(mixed) and not comes_sorted(np.zeros(500)) and not comes_sorted([1])
    assert not comes_sorted(np.arange(500) % 2)
    ledger = Ledger(tmp_path)
    card = {"name": "digits", "classes": ["a", "b"], "channels": 1, "size": 8, "labels": [0] * 250 + [1] * 250}
    ledger.add(DatasetCard(key=PGD.test, **card))
    for n, refused in ((200, False), (400, True)):
        report = compare(*(Standings((standing(10, n=n, weights=w),)) for w in "ab"), Rules(sequential=True))
        if refused:
            with pytest.raises(UsageError, match="the first 400 test images of digits come sorted by class"):
                check_order(report, ledger)
        else:
            check_order(report, ledger)
    assert len(digest(card)) == 64


def test_the_loop_of_the_page_stops_early(bench, tmp_path):
    """As it stands there: 0 after few images where nothing changed, 3 where labels are confused in training."""
    (loop,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
    words = "--defense quick --net tiny --columns clean,slow --executor inline --plugin"
    loop = loop.replace("--defense at trades --suite quick", f"{words} model.py")
    assert words in loop
    good = TINY.read_text()
    (tmp_path / "model.py").write_text(good)
    run = ("run", *words.split(), "model.py", "--json")
    assert bench(*run).returncode == 0 and bench("gate", "--record", "baseline.json").returncode == 0
    bad = good.replace("F.cross_entropy(model(feed.x), feed.y)", "F.cross_entropy(model(feed.x), feed.y % 5)")
    program = tmp_path / "bench"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bench "$@"\n')
    program.chmod(0o755)
    for name, source, code in (("same", good + "\n# refactored\n", 0), ("worse", bad, 3)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.py").write_text(source)
        (folder / "baseline.json").write_bytes((tmp_path / "baseline.json").read_bytes())
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["bash", "-eu", "-c", loop], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        asked = [
            len(json.loads(f.read_text())["asked"])
            for f in folder.glob("results/ledger/*/*.json")
            if '"asked"' in f.read_text()
        ]
        assert sum(asked) < 500, "the baseline has 500 images in each of two columns"
