"""Rank correlations of a few points: Kendall's tau-b, Spearman's rho and their means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import NamedTuple

from retable.errors import UserError

MIN_POINTS = 3
"""Least number of points of a correlation; two points give 1 or -1 only."""


class Correlation(NamedTuple):
    """A rank correlation, or the reason why it is undefined.

    Attributes:
        value: correlation in [-1, 1], the mean over ``rankings`` pairs; None if undefined.
        points: number of points of a ranking, the smallest of a mean.
        rankings: number of pairs of rankings in the mean.
        reason: why ``value`` is None, otherwise empty.
    """

    value: float | None
    points: int
    rankings: int = 1
    reason: str = ""


def ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Rank points from 1, the largest value; equal values share the mean of their ranks.

    >>> ranks({"revnet": 44.5, "v1": 44.5, "vgg": 33.3})
    {'revnet': 1.5, 'v1': 1.5, 'vgg': 3.0}
    """
    numbers = list(values.values())
    return {
        name: sum(other > own for other in numbers) + (numbers.count(own) + 1) / 2
        for name, own in values.items()
    }


def kendall_tau(first: Mapping[str, float], second: Mapping[str, float]) -> Correlation:
    """Return Kendall's tau-b between two rankings of encoders, over the encoders that both have.

    1: the same order; -1: the reverse order; pairs that are equal in one ranking count for neither.

    >>> one = {"revnet": 50.0, "v1": 40.0, "vgg": 20.0}
    >>> round(kendall_tau(one, {"revnet": 40.0, "v1": 50.0, "vgg": 20.0}).value, 3)
    0.333
    """
    names = [name for name in first if name in second]
    if reason := _undefined(names, "encoder", first, second):
        return Correlation(None, len(names), reason=reason)
    score = untied_first = untied_second = 0
    for a, b in combinations(names, 2):
        left, right = _sign(first[a] - first[b]), _sign(second[a] - second[b])
        score += left * right
        untied_first += abs(left)
        untied_second += abs(right)
    return Correlation(score / math.sqrt(untied_first * untied_second), len(names))


def spearman(first: Mapping[str, float], second: Mapping[str, float]) -> Correlation:
    """Return Spearman's rank correlation over the points that both mappings have."""
    names = [name for name in first if name in second]
    if reason := _undefined(names, "point", first, second):
        return Correlation(None, len(names), reason=reason)
    left, right = (ranks({name: values[name] for name in names}) for values in (first, second))
    middle = (len(names) + 1) / 2
    product, squares_left, squares_right = (
        math.fsum((one[name] - middle) * (other[name] - middle) for name in names)
        for one, other in ((left, right), (left, left), (right, right))
    )
    return Correlation(product / math.sqrt(squares_left * squares_right), len(names))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _undefined(
    names: list[str], what: str, first: Mapping[str, float], second: Mapping[str, float]
) -> str:
    """Return why a correlation is undefined; empty if it is defined."""
    if len(names) < MIN_POINTS:
        points = f"{len(names)} {what}{'' if len(names) == 1 else 's'} in common"
        return f"{points}: expected {MIN_POINTS} or more"
    for values in (first, second):
        if len({values[name] for name in names}) == 1:
            return f"all {len(names)} {what}s are equal: no order"
    return ""


def mean_correlation(found: Iterable[Correlation], nothing: str) -> Correlation:
    """Return the mean of the defined correlations; ``nothing`` is the reason if there is none."""
    found = list(found)
    known = [(one.value, one.points) for one in found if one.value is not None]
    if not known:
        reason = found[0].reason if found else nothing
        return Correlation(None, max((one.points for one in found), default=0), 0, reason)
    value = math.fsum(value for value, _ in known) / len(known)
    return Correlation(value, min(points for _, points in known), len(known))


def chance_spread(points: int) -> float:
    """Return the standard deviation of Kendall's tau between random rankings without ties."""
    if points < 2:
        raise UserError(f"`points` must be at least 2, got {points}. A ranking needs two.")
    return math.sqrt(2 * (2 * points + 5) / (9 * points * (points - 1)))
