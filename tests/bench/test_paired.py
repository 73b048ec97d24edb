"""Tests of a drop keep their promises: closed forms, scipy's answers, and simulated pairs."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.paired import _tail_of_net, drop_on_images, drop_over_seeds, smallest_on_images
from bench.stats import binomial_tail, clopper_pearson, holm, student_quantile, student_tail


@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("trials", [1, 7, 200, 50_000])
def test_binomial_tails_and_intervals_are_scipys(trials, share):
    """At every part of the range, and 1 or 0 beyond its ends."""
    for least in sorted({0, 1, trials // 3, int(trials * share), trials, trials + 1}):
        expected = scipy_stats.binom.sf(least - 1, trials, share)
        assert binomial_tail(least, trials, share) == pytest.approx(expected, rel=1e-8, abs=1e-300)
    for successes in sorted({0, 1, trials // 3, trials}):
        exact = scipy_stats.binomtest(successes, trials).proportion_ci(0.999)
        assert clopper_pearson(successes, trials, 0.999) == pytest.approx(tuple(exact), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3.7, 40, 1000])
def test_students_distribution_is_scipys(freedom):
    """Its tail on both sides of zero, and its quantiles."""
    for t in (-30, -1.5, 0, 0.2, 3, 80):
        assert student_tail(t, freedom) == pytest.approx(scipy_stats.t.sf(t, freedom), rel=1e-9)
    for tail in (1e-4, 0.05, 0.2, 0.5):
        expected = scipy_stats.t.isf(tail, freedom)
        assert student_quantile(tail, freedom) == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_mcnemar_by_hand():
    """Five of five changed images lost: 1/32; four of five: 6/32; none changed: 1; and the binomial test else."""
    assert drop_on_images(5, 0, 100) == pytest.approx(1 / 32)
    assert drop_on_images(4, 1, 9) == pytest.approx(6 / 32)
    assert drop_on_images(0, 0, 50) == 1
    for lost, gained in ((30, 12), (3, 40), (700, 650)):
        expected = scipy_stats.binomtest(lost, lost + gained, alternative="greater").pvalue
        assert drop_on_images(lost, gained, 5000) == pytest.approx(expected, rel=1e-9)


def test_holm_by_hand():
    """0.01, 0.04, 0.03 of three become 0.03, 0.06, 0.06; ties, ones and nothing stay in order."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([1.0, 0.5, 0.5]) == [1.0, 1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []


@pytest.mark.parametrize(("n", "lost", "gained"), [(5, 0.3, 0.2), (40, 0.1, 0.0), (60, 0.02, 0.5), (30, 1.0, 0.0)])
def test_the_tail_of_a_net_loss_is_exact(n, lost, gained):
    """It is that of all triples of lost, gained and unchanged, summed with scipy's multinomial."""
    tail = _tail_of_net(n, lost, gained)
    pairs = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    chance = scipy_stats.multinomial.pmf([(b, c, n - b - c) for b, c in pairs], n, [lost, gained, 1 - lost - gained])
    for least in (-n, -3, 0, 1, 4, n // 2, n, n + 1):
        expected = sum(p for p, (b, c) in zip(chance, pairs, strict=True) if b - c >= least)
        assert tail(least) == pytest.approx(expected, abs=1e-11)


def test_with_a_margin_the_p_value_is_the_worst_over_rates_of_change():
    """No rate of change in the interval makes what was seen likelier, by more than the grid's mesh leaves."""
    n, lost, gained, margin = 400, 30, 6, 0.02
    low, high = clopper_pearson(lost + gained, n, 1 - 1e-5)
    rates = np.linspace(max(low, margin), high, 500)
    worst = max(_tail_of_net(n, (r + margin) / 2, (r - margin) / 2)(lost - gained) for r in rates)
    assert drop_on_images(lost, gained, n, margin) == pytest.approx(worst + 1e-5, rel=1e-3)
    one_sided = scipy_stats.binomtest(lost, n, margin, alternative="greater").pvalue
    assert drop_on_images(lost, 0, n, margin) >= one_sided  # as if it were known that none can be gained


@pytest.mark.parametrize("margin", [0.0, 0.02])
@pytest.mark.parametrize("change", [0.03, 0.2])
def test_false_alarms_are_as_rare_as_promised(margin, change):
    """10,000 simulated pairs whose true drop is the margin: at most 5 % are significant at 5 %."""
    n, rng = 300, np.random.default_rng(0)
    chances = [(change + margin) / 2, (change - margin) / 2, 1 - change]
    pairs, counts = np.unique(rng.multinomial(n, chances, 10_000)[:, :2], axis=0, return_counts=True)
    alarms = sum(c for (b, g), c in zip(pairs, counts, strict=True) if _alarm(int(b), int(g), n, margin))
    # Three standard deviations of 10,000 trials above 5 %.
    assert alarms / 10_000 <= 0.05 + 3 * (0.05 * 0.95 / 10_000) ** 0.5
    assert alarms > 0


def _alarm(lost, gained, n, margin):
    """Whether it is significant; what is no drop beyond the margin need not be asked."""
    return lost - gained > margin * n and drop_on_images(lost, gained, n, margin) <= 0.05


@pytest.mark.parametrize(("n", "gained", "margin"), [(300, 6, 0.0), (1000, 0, 0.0), (200, 2, 0.02), (2000, 100, 0.0)])
def test_the_smallest_drop_is_seen_in_four_of_five(n, gained, margin):
    """Of 2,000 simulated pairs with that drop, 80 % are significant, but for the whole numbers."""
    rng = np.random.default_rng(1)
    smallest = smallest_on_images(gained, n, 0.05, margin)
    chances = [gained / n + smallest, gained / n, 1 - smallest - 2 * gained / n]
    pairs, counts = np.unique(rng.multinomial(n, chances, 2000)[:, :2], axis=0, return_counts=True)
    seen = sum(c for (b, g), c in zip(pairs, counts, strict=True) if _alarm(int(b), int(g), n, margin))
    assert 0.77 <= seen / 2000 <= 0.9


def test_too_few_images_see_nothing():
    """Four images cannot give a p-value below 1/16, five can; no drop beyond all of them is seen."""
    assert smallest_on_images(0, 4, 0.05) is None
    assert smallest_on_images(0, 5, 0.05) == 1.0
    assert smallest_on_images(0, 5, 0.05, 0.9) is None


def test_over_seeds_it_is_students_or_welchs_test():
    """Scipy's p-values; and by hand for drops of 1, 2 and 3 points: t = 2 sqrt(3), p = 0.0371."""
    before, now = [0.52, 0.55, 0.51], [0.51, 0.53, 0.48]
    paired = drop_over_seeds(before, now, 10_000, paired=True)
    assert paired.p_value == pytest.approx(scipy_stats.ttest_rel(before, now, alternative="greater").pvalue)
    assert (paired.p_value, paired.drop) == (pytest.approx(0.0371, abs=5e-5), pytest.approx(0.02))
    now = [0.50, 0.47, 0.49, 0.505]
    welch = drop_over_seeds(before, now, 10_000, 0.01, paired=False)
    expected = scipy_stats.ttest_ind(before, [a + 0.01 for a in now], equal_var=False, alternative="greater").pvalue
    assert welch.p_value == pytest.approx(expected)


def test_equal_drops_prove_nothing_beyond_one_image():
    """Two seeds of 100 images that both lost one: the scatter is taken as one image, so p is 0.196."""
    test = drop_over_seeds([0.5, 0.6], [0.49, 0.59], 100, paired=True)
    assert test.p_value == pytest.approx(scipy_stats.t.sf(2**0.5, 1))


@pytest.mark.parametrize("paired", [True, False])
def test_over_seeds_false_alarms_and_power_are_as_promised(paired):
    """1,500 simulated pairs of five seeds: 5 % alarms without a drop, 80 % with the smallest that is seen."""
    rng = np.random.default_rng(2)
    pairs = [(list(b), list(a)) for b, a in zip(*rng.normal(0.5, 0.01, (2, 1500, 5)), strict=True)]
    none = [drop_over_seeds(b, a, 10**6, paired=paired) for b, a in pairs]
    assert 0.03 <= np.mean([t.p_value <= 0.05 for t in none]) <= 0.067
    smallest = np.sqrt(np.mean([t.smallest(0.05) ** 2 for t in none[:40]]))
    there = [drop_over_seeds(b, [value - smallest for value in a], 10**6, paired=paired) for b, a in pairs]
    assert 0.72 <= np.mean([t.p_value <= 0.05 for t in there]) <= 0.88
