"""How far two means may be apart by chance: Student's t, from the spreads that are known.

Runs are few and spreads are often missing, so three rules fill the gaps, each towards the wider
interval or the better known spread:

1. A std from few runs is often too small by chance. Where a column states a run-to-run std as well,
   the larger of it and the cell's own counts, on the better founded number of degrees of freedom.
2. A side with a single run has the spread of the other side.
3. Spreads of the two sides are pooled, so that a second seed never widens the interval by its own
   poor std. Only if ours is larger than theirs beyond chance (F test at 1 %) does each side keep
   its own spread, as in Welch's test.

No SciPy: two special functions are all that is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95
_UNEQUAL_SPREADS = 0.01


def regularised_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), by its continued fraction.

    >>> round(regularised_beta(0.5, 2.0, 2.0), 12)
    0.5
    """
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):  # the fraction converges fast on the other side only
        return 1.0 - regularised_beta(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1.0), tiny)
    fraction = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d or tiny)
            c = 1.0 + term / c or tiny
            change *= c * d
        fraction *= change
        if abs(change - 1.0) < 1e-15:
            break
    return math.exp(log_front) * fraction / a


def student_tail(t: float, degrees: float) -> float:
    """Return P(T > t) of Student's t with ``degrees`` of freedom, for t >= 0."""
    return 0.5 * regularised_beta(degrees / (degrees + t * t), degrees / 2.0, 0.5)


@lru_cache(maxsize=4096)
def student_quantile(probability: float, degrees: float) -> float:
    """Return the t with P(T <= t) = ``probability``, which lies in [0.5, 1).

    >>> round(student_quantile(0.975, 4), 3)
    2.776
    """
    if not 0.5 <= probability < 1.0 or degrees <= 0.0:
        raise ValueError(f"no quantile {probability} of Student's t with {degrees} degrees")
    tail = 1.0 - probability
    high = 1.0
    while student_tail(high, degrees) > tail:
        high *= 2.0
    low = 0.0
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        if student_tail(middle, degrees) > tail:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def f_tail(ratio: float, above: float, below: float) -> float:
    """Return P(F > ``ratio``) of Fisher's F with ``above`` and ``below`` degrees of freedom.

    >>> round(f_tail(1.0, 7.0, 7.0), 12)
    0.5
    """
    return regularised_beta(below / (below + above * ratio), below / 2.0, above / 2.0)


@dataclass(frozen=True)
class Spread:
    """A run-to-run standard deviation and the degrees of freedom that it was estimated with."""

    std: float
    degrees: float


@dataclass(frozen=True)
class Interval:
    """A 95 % interval around ``centre``."""

    centre: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval's length."""
        return (self.high - self.low) / 2.0


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean of at least one value."""
    return math.fsum(values) / len(values)


def spread_of(values: Sequence[float]) -> Spread | None:
    """Return the sample std (divisor n - 1) of n values, None for fewer than two.

    >>> spread_of([1.0, 3.0])
    Spread(std=1.4142135623730951, degrees=1)
    """
    if len(values) < 2:
        return None
    centre = mean(values)
    variance = math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1)
    return Spread(math.sqrt(variance), len(values) - 1)


def pooled(spreads: Sequence[Spread]) -> Spread | None:
    """Return the root mean square of stds weighted by degrees of freedom, None for none.

    >>> pooled([Spread(1.0, 2), Spread(2.0, 2)])
    Spread(std=1.5811388300841898, degrees=4)
    """
    if not spreads:
        return None
    degrees = sum(spread.degrees for spread in spreads)
    total = math.fsum(spread.degrees * spread.std**2 for spread in spreads)
    return Spread(math.sqrt(total / degrees), degrees)


def larger(own: Spread | None, column: Spread | None) -> Spread | None:
    """Return the larger std with the larger number of degrees of freedom: rule 1 of this module."""
    if own is None or column is None:
        return own or column
    return Spread(max(own.std, column.std), max(own.degrees, column.degrees))


def _around(centre: float, error: float, degrees: float) -> Interval:
    half = student_quantile((1.0 + CONFIDENCE) / 2.0, degrees) * error
    return Interval(centre, centre - half, centre + half)


def _excessive(ours: Spread, theirs: Spread) -> bool:
    """Whether our spread is larger than theirs beyond chance."""
    if theirs.std == 0.0:
        return ours.std > 0.0
    ratio = (ours.std / theirs.std) ** 2
    return f_tail(ratio, ours.degrees, theirs.degrees) < _UNEQUAL_SPREADS


def difference_of_means(
    ours: Sequence[float], value: float, runs: int, reference: Spread | None
) -> Interval | None:
    """Return the 95 % interval of our mean minus a reference mean.

    Args:
        ours: our runs, at least one.
        value: the reference mean.
        runs: how many runs are behind it, at least one.
        reference: the run-to-run spread of the reference, None where nobody stated one: then ours
            stands in.

    Returns None if neither side has a spread: single runs say nothing about chance.
    """
    own = spread_of(ours)
    centre = mean(ours) - value
    if own is None or reference is None:
        known = own or reference
        if known is None:
            return None
        error = known.std * math.sqrt(1.0 / len(ours) + 1.0 / runs)
        return _around(centre, error, known.degrees)
    if not _excessive(own, reference):
        common = pooled([own, reference])
        assert common is not None
        error = common.std * math.sqrt(1.0 / len(ours) + 1.0 / runs)
        return _around(centre, error, common.degrees)
    a, b = own.std**2 / len(ours), reference.std**2 / runs
    degrees = (a + b) ** 2 / (a**2 / own.degrees + b**2 / reference.degrees)
    return _around(centre, math.sqrt(a + b), degrees)


def mean_of_differences(
    differences: Sequence[float], stand_in: Spread | None = None
) -> Interval | None:
    """Return the 95 % interval of the mean of paired differences.

    Args:
        differences: one for each seed, at least one.
        stand_in: the spread of such a difference as others measured it; pooled with our own as in
            `difference_of_means`.

    Returns None if there is a single difference and no stand-in.
    """
    own = spread_of(differences)
    if own is not None and (stand_in is None or _excessive(own, stand_in)):
        known: Spread | None = own
    else:
        known = pooled([spread for spread in (own, stand_in) if spread is not None])
    if known is None:
        return None
    return _around(mean(differences), known.std / math.sqrt(len(differences)), known.degrees)
