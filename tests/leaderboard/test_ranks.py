"""Ranks as intervals: against the test's definition, against all pairs counted one by one, and against known truth."""

from __future__ import annotations

import random
from fractions import Fraction
from math import comb

import pytest

from leaderboard.arithmetic import Number, Spent
from leaderboard.images import Images
from leaderboard.ranks import needed, ranks
from leaderboard.rows import Maker, Row
from leaderboard.seeds import Group, Spread


def row(fell, n, name="at", seed=0, bound=False):
    images = Images(fell)
    number = Number(n - images.among(n), n, bound, Spent())
    return Row(Maker(name, seed, "best"), "cnn", "n", name, (), {}, number, Spent(), (), {}, images)


def p_value(wins, changed):
    """Two-sided, by counting: how often a fair coin gives so many heads or more, twice."""
    return 2 * Fraction(sum(comb(changed, k) for k in range(wins, changed + 1)), 2**changed)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 24, 0.05 / 4999])
def test_the_lead_that_is_needed_is_the_smallest_significant_one(alpha):
    for changed in (*range(40), 100, 301):
        lead = needed(changed, alpha)
        wins = (changed + lead) // 2
        assert (changed + lead) % 2 == 0 and lead > 0
        assert wins > changed or p_value(wins, changed) <= alpha
        assert 2 * (wins - 1) <= changed or p_value(wins - 1, changed) > alpha


def test_ranks_are_those_of_all_pairs_counted_one_by_one():
    """Thirty rows, some on fewer images, some with no more than a bound."""
    rng = random.Random(1)
    rows = []
    for i in range(30):
        n, share = rng.choice([150, 200, 64]), rng.random()
        rows.append(row([k for k in range(200) if rng.random() < share], n, f"d{i}", bound=i % 7 == 3))
    found = ranks(rows)
    ranked = [r for r in rows if not r.summary.bound]
    for r, interval in zip(rows, found, strict=True):
        if r.summary.bound:
            assert interval is None
            continue
        better = worse = 0
        for other in ranked:
            n = min(r.summary.n, other.summary.n)
            mine, theirs = ({k for k in x.fell if k < n} for x in (r, other))
            lost, won = len(mine - theirs), len(theirs - mine)
            if lost + won and p_value(max(lost, won), lost + won) <= 0.05 / (len(ranked) - 1):
                better, worse = better + (lost > won), worse + (won > lost)
        assert interval == (1 + better, len(ranked) - worse)


def test_means_over_corruptions_are_ranked_by_the_paired_test():
    """Beside scipy's paired test, of every pair."""
    from scipy.stats import ttest_rel

    rng = random.Random(2)
    rows = []
    for i, share in enumerate((0.2, 0.22, 0.3, 0.31, 0.5)):
        hard = random.Random(0)
        chance = [share * 2 * hard.random() for _ in range(120)]
        spoilt = tuple(Images([k for k in range(120) if rng.random() < chance[k]]) for _ in range(6))
        number = Number(720 - sum(map(len, spoilt)), 120, False, Spent(), conditions=6)
        maker = Maker(f"d{i}", 0, "best")
        rows.append(Row(maker, "cnn", "n", f"w{i}", (), {}, number, Spent(), (), {}, spoilt=spoilt))
    scores = [[sum(k not in fell for fell in row.spoilt) for k in range(120)] for row in rows]
    expected = []
    for mine in scores:
        others = [ttest_rel(theirs, mine) for theirs in scores if theirs is not mine]
        better = sum(t.statistic > 0 and t.pvalue <= 0.05 / 4 for t in others)
        worse = sum(t.statistic < 0 and t.pvalue <= 0.05 / 4 for t in others)
        expected.append((1 + better, 5 - worse))
    assert ranks(rows) == expected and len(set(expected)) > 2


def test_equal_lines_are_tied_and_far_ones_are_apart():
    rows = [row(range(10), 100), row(range(10), 100), row(range(60), 100), row(range(100), 100)]
    assert ranks(rows) == [(1, 2), (1, 2), (3, 3), (4, 4)]
    assert ranks(rows[:1]) == [(1, 1)] and ranks([]) == []


def test_of_several_seeds_every_one_must_win():
    """Two seeds of one defense, far above another; then one of the seeds is as bad as that."""
    bad = row(range(60), 100, "bad")
    for second, expected in ((range(12), [(1, 1), (2, 2)]), (range(58), [(1, 2), (1, 2)])):
        seeds = (row(range(10), 100, seed=0), row(second, 100, seed=1))
        spread = Spread(tuple(r.summary.share for r in seeds), 2, 100, 100)
        assert ranks([Group("best", seeds, {}, spread), bad]) == expected


def test_intervals_hold_the_true_rank():
    """Six models of known strength on 400 images, a hundred times: at most 5 % of the intervals may miss."""
    rng = random.Random(0)
    truth = [0.3, 0.35, 0.4, 0.4, 0.5, 0.7]
    missed = 0
    for _ in range(100):
        hard = [rng.random() for _ in range(400)]
        rows = [row([k for k in range(400) if 0.7 * hard[k] + 0.3 * rng.random() < share], 400) for share in truth]
        for share, (low, high) in zip(truth, ranks(rows), strict=True):
            best = 1 + sum(other < share for other in truth)
            last = sum(other <= share for other in truth)
            missed += not (low <= best and last <= high) and not (low <= last and best <= high)
    assert missed <= 0.05 * 600
