"""Confidence intervals of differences between means, by Student's t.

Runs are few and spreads are often missing, so three rules fill the gaps:

1. A std from few runs is often too small by chance. Where a column also states a run-to-run std,
   the larger of the two is used, with the larger number of degrees of freedom.
2. A side with a single run takes the spread of the other side.
3. The spreads of both sides are pooled, so that a second seed with a poor std does not widen the
   interval. If ours is larger than theirs beyond chance (F test at 1 %), each side keeps its own
   spread, as in Welch's test.

SciPy is imported by the first quantile, so that reading and printing stored tables work without it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from retable import extras

_CONFIDENCE = 0.95
_UNEQUAL_SPREADS = 0.01


def student_quantile(probability: float, degrees: float) -> float:
    """Return the t with P(T <= t) = ``probability`` for Student's t with ``degrees`` of freedom."""
    return float(_special().stdtrit(degrees, probability))


def _special() -> Any:
    """Import ``scipy.special``, which takes a second less than ``scipy.stats``."""
    extras.require("scipy", "train", "A verdict")
    from scipy import special

    return special


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


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean of at least one value."""
    return math.fsum(values) / len(values)


def spread_of(values: Sequence[float]) -> Spread | None:
    """Return the sample std (divisor n - 1) of n values, None for fewer than two."""
    if len(values) < 2:
        return None
    centre = mean(values)
    variance = math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1)
    return Spread(math.sqrt(variance), len(values) - 1)


def pooled(spreads: Sequence[Spread]) -> Spread:
    """Return the root mean square of at least one std, weighted by degrees of freedom."""
    degrees = sum(spread.degrees for spread in spreads)
    total = math.fsum(spread.degrees * spread.std**2 for spread in spreads)
    return Spread(math.sqrt(total / degrees), degrees)


def pool_varying(spreads: Collection[Spread]) -> Spread:
    """Pool the spreads above zero, all if none is: a value fixed by definition has no spread."""
    return pooled([spread for spread in spreads if spread.std > 0.0] or list(spreads))


def moderated(spreads: Sequence[Spread]) -> list[Spread]:
    """Return each spread shrunk towards what all of them have in common.

    Variances s_i^2 of f_i degrees of freedom are taken as draws around true variances that follow
    a scaled inverse chi-squared distribution with scale s_0^2 and f_0 degrees, both estimated from
    the moments of log s_i^2 (Smyth, "Linear models and empirical Bayes methods", Stat. Appl. Genet.
    Mol. Biol. 3(1), 2004, sections 3 and 6.2). The shrunk variance is (f_0 s_0^2 + f_i s_i^2) /
    (f_0 + f_i), with f_0 + f_i degrees, at most those of all spreads together. If they differ no
    more than chance explains, f_0 is infinite, and each is the pooled one. So is a spread of zero,
    that of a value fixed by definition.
    """
    common = pool_varying(spreads)
    varying = [spread for spread in spreads if spread.std > 0.0]
    scale, prior = _prior_of_variances(varying) if len(varying) > 1 else (0.0, math.inf)
    if math.isinf(prior):
        return [common] * len(spreads)
    return [
        Spread(
            math.sqrt((prior * scale + own.degrees * own.std**2) / (prior + own.degrees)),
            min(prior + own.degrees, common.degrees),
        )
        if own.std > 0.0
        else common
        for own in spreads
    ]


def _prior_of_variances(spreads: Sequence[Spread]) -> tuple[float, float]:
    """Return s_0^2 and f_0 of `moderated`, f_0 infinite where variances differ only by chance."""
    special = _special()
    halves = [spread.degrees / 2.0 for spread in spreads]
    logs = [
        2.0 * math.log(spread.std) - float(special.digamma(half)) + math.log(half)
        for spread, half in zip(spreads, halves, strict=True)
    ]
    own = spread_of(logs)
    assert own is not None
    by_chance = mean([float(special.polygamma(1, half)) for half in halves])
    if own.std**2 <= by_chance:
        return math.exp(mean(logs)), math.inf
    half = _inverse_trigamma(own.std**2 - by_chance)
    return math.exp(mean(logs) + float(special.digamma(half)) - math.log(half)), 2.0 * half


def _inverse_trigamma(value: float) -> float:
    """Return the x > 0 whose trigamma function is ``value`` > 0, by bisection of log x."""
    special = _special()
    low, high = -40.0, 40.0
    for _ in range(100):
        middle = (low + high) / 2.0
        above = float(special.polygamma(1, math.exp(middle))) > value
        low, high = (middle, high) if above else (low, middle)
    return math.exp(low)


def larger(own: Spread | None, column: Spread | None) -> Spread | None:
    """Return the larger std with the larger number of degrees of freedom (rule 1)."""
    if own is None or column is None:
        return own or column
    return Spread(max(own.std, column.std), max(own.degrees, column.degrees))


def _around(centre: float, error: float, degrees: float) -> Interval:
    half = student_quantile((1.0 + _CONFIDENCE) / 2.0, degrees) * error
    return Interval(centre, centre - half, centre + half)


def _excessive(ours: Spread, theirs: Spread) -> bool:
    """Whether our spread is larger than theirs beyond chance, by Fisher's F."""
    if theirs.std == 0.0:
        return ours.std > 0.0
    ratio = (ours.std / theirs.std) ** 2
    tail = _special().fdtrc(ours.degrees, theirs.degrees, ratio)
    return bool(tail < _UNEQUAL_SPREADS)


def difference_of_means(
    ours: Sequence[float], value: float, runs: int, reference: Spread | None
) -> Interval | None:
    """Return the 95 % interval of our mean minus a reference mean; None if no spread is known.

    ``value`` is the mean of ``runs`` runs with the run-to-run spread ``reference``; both sides have
    at least one run.
    """
    return _difference(mean(ours) - value, spread_of(ours), len(ours), runs, reference)


def expected_difference(
    ours: Sequence[float], value: float, runs: int, reference: Spread, count: int
) -> Interval:
    """Return `difference_of_means` as ``count`` runs with our mean and our std would give it.

    A single run of ours takes the std of the reference.
    """
    own = spread_of(ours) or reference
    expected = Spread(own.std, count - 1)
    interval = _difference(mean(ours) - value, expected, count, runs, reference)
    assert interval is not None
    return interval


def _difference(
    centre: float, own: Spread | None, count: int, runs: int, reference: Spread | None
) -> Interval | None:
    if own and reference and _excessive(own, reference):
        a, b = own.std**2 / count, reference.std**2 / runs
        degrees = (a + b) ** 2 / (a**2 / own.degrees + b**2 / reference.degrees)
        return _around(centre, math.sqrt(a + b), degrees)
    known = pooled([own, reference]) if own and reference else own or reference
    if known is None:
        return None
    error = known.std * math.sqrt(1.0 / count + 1.0 / runs)
    return _around(centre, error, known.degrees)


def interval_of_mean(centre: float, spread: Spread, runs: int) -> Interval:
    """Return the 95 % interval of a mean ``centre`` of ``runs`` values with a known spread."""
    return _around(centre, spread.std / math.sqrt(runs), spread.degrees)


def spread_of_pairs(own: Spread | None, column: Spread | None, independent: Spread) -> Spread:
    """Return the spread of the difference of two runs of one seed.

    ``own`` is that of our pairs of a cell, None for a single pair, ``column`` that of its column,
    and ``independent`` that of two runs that share nothing. If the cell's pairs vary less than
    those beyond chance (F test at 1 %), the larger of own and column is taken. Otherwise a smaller
    spread is taken for chance, and a larger one is pooled unless it is larger beyond chance.
    """
    ours = larger(own, column)
    if own is None or ours is None:
        return independent
    if ours.std < independent.std:
        return ours if _excessive(independent, own) else independent
    return ours if _excessive(ours, independent) else pooled([ours, independent])


def mean_of_differences(
    differences: Sequence[float], stand_in: Spread | None = None
) -> Interval | None:
    """Return the 95 % interval of the mean of paired differences; None if no spread is known.

    ``stand_in`` is the spread of such a difference as the reference knows it; it is pooled with our
    own as in `difference_of_means`.
    """
    own = known = spread_of(differences)
    if stand_in is not None and not (own and _excessive(own, stand_in)):
        known = pooled([own, stand_in] if own else [stand_in])
    return interval_of_mean(mean(differences), known, len(differences)) if known else None
