"""Intervals agree with scipy's."""

import pytest
from scipy.stats import binomtest

from bench.stats import wilson


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize("trials", [1, 2, 10, 97, 1000, 10_000])
def test_wilson(trials, confidence):
    """The interval is scipy's, at every share of successes."""
    for successes in sorted({0, 1, trials // 3, trials // 2, trials - 1, trials}):
        expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
        assert wilson(successes, trials, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_ends():
    """None or all give an end that is exactly 0 or 1; no trial says nothing."""
    assert wilson(0, 7)[0] == 0.0 and wilson(7, 7)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)
