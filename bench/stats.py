"""Intervals and tests on outcomes, without scipy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson, 1927), as shares of 1; (0, 1) where nothing was tried."""
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, z2 = successes / trials, z * z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    # The ends are exact at 0 and 1, where rounding would leave a trace.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)


def binomial_tail(least: int, trials: int, share: float) -> float:
    """P(X >= least) of a binomial X, exact but for rounding."""
    if least <= 0 or least > trials:
        return float(least <= 0)
    return _beta(share, least, trials - least + 1)


def clopper_pearson(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper and Pearson, 1934), which covers it at least so often."""
    tail = (1 - confidence) / 2
    low = _solve(lambda share: binomial_tail(successes, trials, share) - tail) if successes else 0.0
    high = _solve(lambda share: tail - 1 + binomial_tail(successes + 1, trials, share)) if successes < trials else 1.0
    return low, high


def student_tail(t: float, freedom: float) -> float:
    """P(T >= t) of Student's distribution."""
    half = _beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2
    return half if t >= 0 else 1 - half


def student_quantile(tail: float, freedom: float) -> float:
    """The t that T exceeds with this probability; of one half or less."""
    # t = x / (1 - x) maps the whole ray to a unit of x.
    x = _solve(lambda x: tail - student_tail(x / (1 - x), freedom) if x < 1 else tail)
    return x / (1 - x)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number: any of those up to alpha is false with at most that chance (Holm, 1979)."""
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def _solve(rising: Callable[[float], float]) -> float:
    """Where in (0, 1) a rising function crosses zero, to the last bit but a few."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) >= 0 else (middle, high)
    return (low + high) / 2


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1 - _beta(1 - x, b, a)
    front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    # Lentz's method: the fraction as a product of ratios c * d, none of which may be zero.
    c, d = 1.0, 1 / _apart(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d, c = 1 / _apart(1 + step * d), _apart(1 + step / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(front) * value / a


def _apart(value: float) -> float:
    """The value, kept away from zero."""
    return value if abs(value) > 1e-300 else 1e-300
