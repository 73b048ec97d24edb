"""Is it less robust than before?  One-sided tests of a drop, on the same images or over training seeds.

On images.  Of n images that both models were asked, `lost` stood before and fall now, and `gained` the other way
round.  Without a margin it is McNemar's exact test: given how many images changed, as many as not are lost by chance.

With a margin m the chance of being lost may exceed that of being gained by m, and how many images change is not known
but matters.  The test is exact and unconditional: P(lost - gained >= what was seen), the largest over all rates of
change in a Clopper-Pearson interval of 99.999 %, plus the 0.001 % by which that interval may err (Berger and Boos,
1994).  So a false alarm is never more frequent than its p-value says, and mostly rarer.

Over seeds.  Student's test of the mean drop of seeds that both sides trained, Welch's where the seeds differ; both
take accuracies as normally distributed.  A scatter below one image is not believed: accuracies are whole images.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.stats import binomial_tail, clopper_pearson, student_quantile, student_tail

MISSED = 1e-5  # how often the interval for the rate of change may err
GRID = 33  # rates of change that are tried in it
POINTS = 24  # numbers of changed images that a forecast looks at
POWER = 0.8


def drop_on_images(lost: int, gained: int, n: int, margin: float = 0.0) -> float:
    """The p-value of `no more than this margin (a share) was lost`."""
    if margin == 0:
        return binomial_tail(lost, lost + gained, 0.5)
    return _worst_tail(n, lost + gained, margin)(lost - gained)


def smallest_on_images(gained: int, n: int, alpha: float, margin: float = 0.0) -> float | None:
    """The smallest drop (a share) that the test sees with 80 % power at this level, if as many images are gained.

    None where even the largest drop would often be missed.
    """
    least, most = math.floor(margin * n), n - 2 * gained
    if most <= least or _power(most, gained, n, alpha, margin) < POWER:
        return None
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if _power(middle, gained, n, alpha, margin) >= POWER else (middle, most)
    return most / n


def _power(drop: int, gained: int, n: int, alpha: float, margin: float) -> float:
    """How often a drop of so many images is significant: the mean over how many images change."""
    rate, share = (2 * gained + drop) / n, (gained + drop) / (2 * gained + drop)
    mean, reach = n * rate, 5 * math.sqrt(n * rate * (1 - rate)) + 1
    low, high = (max(0, math.floor(mean - reach)), min(n, math.ceil(mean + reach))) if rate < 1 else (n, n)
    total = power = 0.0
    for changed in range(low, high + 1, 1 + (high - low) // (POINTS if margin == 0 else POINTS // 4)):
        logs = math.lgamma(n + 1) - math.lgamma(changed + 1) - math.lgamma(n - changed + 1)
        logs += changed * math.log(rate) + ((n - changed) * math.log1p(-rate) if rate < 1 else 0.0)
        weight = math.exp(logs)
        total += weight
        power += weight * binomial_tail(_needed(n, changed, alpha, margin), changed, share)
    return power / total


@lru_cache(maxsize=4096)
def _needed(n: int, changed: int, alpha: float, margin: float) -> int:
    """How many of the images that changed must be lost ones, for a significant drop."""
    if margin == 0:
        return _first(lambda lost: binomial_tail(lost, changed, 0.5) <= alpha, changed)
    # The upper end is the worst but for a trace, and enough for a forecast.
    rate = max(margin, clopper_pearson(changed, n, 1 - MISSED)[1])
    tail = _tail_of_net(n, (rate + margin) / 2, (rate - margin) / 2)
    return _first(lambda lost: tail(2 * lost - changed) + MISSED <= alpha, changed)


def _first(holds: Callable[[int], bool], last: int) -> int:
    """The first whole number from 0 to last from which on something holds, or last + 1."""
    low, high = 0, last + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


@lru_cache(maxsize=256)
def _worst_tail(n: int, changed: int, margin: float) -> Callable[[int], float]:
    """The p-value of each net loss, where so many of n images changed."""
    low, high = clopper_pearson(changed, n, 1 - MISSED)
    # No smaller rate of change allows for the margin.
    rates = np.linspace(min(1.0, max(low, margin)), min(1.0, max(high, margin)), GRID)
    tails = [_tail_of_net(n, (rate + margin) / 2, max(0.0, (rate - margin) / 2)) for rate in rates.tolist()]
    return lambda net: min(1.0, max(tail(net) for tail in tails) + MISSED)


def _tail_of_net(n: int, lost: float, gained: float) -> Callable[[int], float]:
    """P(lost - gained >= k) for each k, where n images are lost and gained with these chances.

    The probabilities are the Fourier transform of the nth power of the characteristic function; beyond twelve standard
    deviations and 64 images nothing is left that could wrap round.
    """
    mean = n * (lost - gained)
    reach = min(2 * n + 2, int(12 * math.sqrt(n * (lost + gained))) + 64)
    size = 1 << (2 * reach).bit_length()
    angle = 2 * np.pi * np.arange(size) / size
    turn = np.exp(1j * angle)
    one: NDArray[np.complex128] = (1 - lost - gained) + lost * turn + gained / turn
    chances = np.fft.fft(one**n).real.clip(0) / size  # of k, at k modulo size
    start = round(mean) - size // 2
    tails = np.roll(chances, -(start % size))[::-1].cumsum()[::-1].clip(0, 1)
    return lambda k: 1.0 if k < start else float(tails[k - start]) if k - start < size else 0.0


@dataclass(frozen=True)
class OverSeeds:
    """A test over seeds: the mean drop, and its p-value."""

    drop: float
    p_value: float
    margin: float
    error: float  # standard error of the drop
    freedom: float

    def smallest(self, alpha: float) -> float:
        """The smallest drop that is seen with 80 % power at this level, if seeds scatter as they did here.

        The usual approximation to the noncentral distribution: two quantiles, one behind the other.
        """
        quantiles = (student_quantile(min(tail, 0.5), self.freedom) for tail in (alpha, 1 - POWER))
        return self.margin + self.error * sum(quantiles)


def drop_over_seeds(
    before: Sequence[float], now: Sequence[float], n: int, margin: float = 0.0, *, paired: bool
) -> OverSeeds:
    """Whether the mean accuracy (a share of n images) fell by more than the margin; two seeds a side at least."""
    drop = statistics.mean(before) - statistics.mean(now)
    floor = 1 / n**2
    if paired:
        drops = [b - a for b, a in zip(before, now, strict=True)]
        square, freedom = max(statistics.variance(drops), floor) / len(drops), len(drops) - 1.0
    else:
        parts = [(max(statistics.variance(side), floor) / len(side), len(side) - 1) for side in (before, now)]
        square = sum(part for part, _ in parts)
        freedom = square**2 / sum(part**2 / free for part, free in parts)
    error = math.sqrt(square)
    return OverSeeds(drop, student_tail((drop - margin) / error, freedom), margin, error, freedom)
