"""Verdicts from intervals and tolerances, and tolerances for recorded references."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from retable.tables.statistics import (
    Interval,
    Spread,
    interval_of_mean,
    moderated,
    pool_varying,
    spread_of,
    student_quantile,
)

FALSE_ALARM = 0.01
"""Share of tables that may have a miss although nothing changed."""

REPEAT_SHARE = 0.1
"""Share of a cell's tolerance that a run may differ from the recorded run that it repeats.

With the recording's seed, versions, processor and instructions the training is bit-equal. Probes
that are solved by L-BFGS are not on every processor of one name: up to 0.45 points were seen, at a
tolerance of 21.
"""

_ROUNDING = 1e-9  # 0.1 + 0.2 is not outside a tolerance of 0.3


class Verdict(StrEnum):
    """Result of comparing a cell with its reference."""

    MATCH = "match"
    MISS = "miss"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not run"


class ClaimVerdict(StrEnum):
    """Result of testing a claim on seed-paired differences.

    `NOT_TESTED`: a fact that the claim depends on does not show with these recipes.
    """

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNRESOLVED = "unresolved"
    NOT_TESTED = "not tested"


def cell_verdict(difference: float, interval: Interval | None, tolerance: float) -> Verdict:
    """Return the verdict on a difference with its 95 % interval, None where that is unknown.

    A difference within the tolerance is a match, whatever its interval. One beyond is a miss if the
    interval lies wholly outside the tolerance on the same side.
    """
    limit = tolerance + _ROUNDING
    if abs(difference) <= limit:
        return Verdict.MATCH
    if interval is not None and max(interval.low, -interval.high) > limit:
        return Verdict.MISS
    return Verdict.INCONCLUSIVE


def is_firm(interval: Interval | None, tolerance: float) -> bool:
    """Say whether the whole interval lies within the tolerance."""
    if interval is None:
        return False
    return max(-interval.low, interval.high) <= tolerance + _ROUNDING


def smallest_miss(interval: Interval | None, tolerance: float) -> float | None:
    """Return the smallest difference that is a miss with an interval of this width."""
    return None if interval is None else tolerance + (interval.high - interval.low) / 2.0


def tolerance_of_mean(single: float, ours: int, runs: int) -> float:
    """Return the tolerance of a mean of ``ours`` fresh runs.

    ``single`` is that of one fresh run against a recorded mean of ``runs``, a prediction interval:
    more runs narrow it as they narrow the difference.
    """
    return single * math.sqrt((1.0 / ours + 1.0 / runs) / (1.0 + 1.0 / runs))


def tolerance_of_pairs(single: float, pairs: int, runs: int, spread: Spread, cells: int) -> float:
    """Return the tolerance of the mean difference of ``pairs`` runs from those of their seeds.

    ``single`` is the tolerance of one fresh run against a recorded mean of ``runs``. At most, the
    runs share nothing with the recorded ones but the seed. If the differences of a seed have a
    smaller ``spread``, the prediction interval follows from it, over ``cells`` cells as in
    `recorded_tolerances`. The least tolerance is that of a repeated run.
    """
    unrelated = single * min(1.0, math.sqrt((2.0 / pairs) / (1.0 + 1.0 / runs)))
    quantile = student_quantile(1.0 - FALSE_ALARM / (2 * cells), spread.degrees)
    related = quantile * spread.std / math.sqrt(pairs)
    return max(min(unrelated, related), REPEAT_SHARE * single)


def claim_verdict(interval: Interval | None, smallest: float | None = None) -> ClaimVerdict:
    """Return the verdict on a claimed order, and on its size where ``smallest`` is given.

    The interval is that of the better row minus the other, signed so that positive favours the
    claim. One below ``smallest``, the least difference that counts as the claimed size, contradicts
    the claim even if the order holds: a tenth of a point does not support "about two points". A
    larger difference than claimed is no contradiction.
    """
    if interval is None:
        return ClaimVerdict.UNRESOLVED
    if interval.high < 0.0 or (smallest is not None and interval.high < smallest - _ROUNDING):
        return ClaimVerdict.CONTRADICTED
    return ClaimVerdict.SUPPORTED if interval.low > 0.0 else ClaimVerdict.UNRESOLVED


def bounded_verdict(
    interval: Interval | None, at_least: float | None, at_most: float | None
) -> ClaimVerdict:
    """Return the verdict on a claim that a number lies between two bounds, None: without one.

    The interval within the bounds supports it, one outside contradicts it.
    """
    if interval is None:
        return ClaimVerdict.UNRESOLVED
    low = -math.inf if at_least is None else at_least
    high = math.inf if at_most is None else at_most
    if low <= interval.low and interval.high <= high:
        return ClaimVerdict.SUPPORTED
    outside = interval.high < low or interval.low > high
    return ClaimVerdict.CONTRADICTED if outside else ClaimVerdict.UNRESOLVED


def recorded_tolerances(
    table: Mapping[str, Mapping[str, Sequence[float]]], decimals: Mapping[str, int] | None = None
) -> tuple[dict[str, Spread], dict[str, dict[str, float]]]:
    """Choose tolerances under which an unchanged method with one fresh seed is not a miss.

    ``table`` is row -> column -> recorded runs of the cell, at least two; ``decimals`` are those
    shown in a column, default 1: half of the last one is the least tolerance. Returns column ->
    pooled spread, and row -> column -> tolerance.

    The tolerance is the half width of Student's prediction interval for one fresh run after n,
    simultaneous over the m cells of the table (Bonferroni),

        tolerance = t(1 - FALSE_ALARM / (2 m), f) * s * sqrt(1 + 1/n),

    where s and f are the cell's std and degrees of freedom, shrunk towards those of its column
    (`retable.tables.statistics.moderated`): the std of five runs alone is too poor, and a std
    pooled over rows that differ raises false alarms in those that vary most. A `miss` needs the
    interval outside the tolerance, so false alarms are rarer than `FALSE_ALARM`, also where a seed
    shifts all rows alike; a single fresh seed of an unchanged method is usually a `match`.
    """
    columns: dict[str, dict[str, Spread]] = {}
    for row, cells in table.items():
        for column, runs in cells.items():
            spread = spread_of(runs)
            if spread is None:
                raise ValueError(f"column {column}: one recorded run has no spread")
            columns.setdefault(column, {})[row] = spread
    count = sum(map(len, columns.values()))
    tolerances: dict[str, dict[str, float]] = {row: {} for row in table}
    for column, found in columns.items():
        shown = 0.5 * 10.0 ** -(decimals or {}).get(column, 1)
        for row, spread in zip(found, moderated([*found.values()]), strict=True):
            quantile = student_quantile(1.0 - FALSE_ALARM / (2 * count), spread.degrees)
            count_of_runs = len(table[row][column])
            prediction = quantile * spread.std * math.sqrt(1.0 + 1.0 / count_of_runs)
            tolerances[row][column] = max(prediction, shown)
    spreads = {column: pool_varying(found.values()) for column, found in columns.items()}
    return spreads, tolerances


def seeds_to_resolve(spread: Spread, half_width: float) -> int | None:
    """Return how many seeds give a 95 % interval of at most this half width, None above 100.

    ``spread`` is that of one difference; its own uncertainty is left out.
    """
    for count in range(2, 101):
        if interval_of_mean(0.0, Spread(spread.std, count - 1), count).high <= half_width:
            return count
    return None


def seeds_to_decide(expected: Callable[[int], tuple[Interval, float]], runs: int) -> int | None:
    """Return how many seeds in all would end an inconclusive verdict, None if 100 would not.

    Args:
        expected: number of seeds -> interval and tolerance that so many would give if the
            difference and the spread stayed as they are.
        runs: number of seeds that there are.
    """
    for count in range(runs + 1, 101):
        interval, tolerance = expected(count)
        if cell_verdict(interval.centre, interval, tolerance) is not Verdict.INCONCLUSIVE:
            return count
    return None
