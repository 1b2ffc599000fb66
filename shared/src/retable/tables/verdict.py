"""What an interval says about a tolerance, and the tolerance that a recording deserves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

from retable.tables.statistics import (
    Interval,
    Spread,
    larger,
    pooled,
    spread_of,
    student_quantile,
)

FALSE_ALARM = 0.01
"""The share of tables that may raise a miss although nothing changed."""

_ROUNDING = 1e-9  # 0.1 + 0.2 is not outside a tolerance of 0.3


class Verdict(StrEnum):
    """What a cell's interval says about its tolerance."""

    MATCH = "match"
    MISS = "miss"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not run"


class ClaimVerdict(StrEnum):
    """What the seed-paired differences say about a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNRESOLVED = "unresolved"


def judge(interval: Interval | None, tolerance: float) -> Verdict:
    """Return the verdict on a difference whose 95 % interval is known, or unknown if None.

    >>> judge(Interval(0.1, -0.2, 0.4), tolerance=0.5)
    <Verdict.MATCH: 'match'>
    >>> judge(Interval(0.9, 0.6, 1.2), tolerance=0.5)
    <Verdict.MISS: 'miss'>
    """
    if interval is None:
        return Verdict.INCONCLUSIVE
    if max(-interval.low, interval.high) <= tolerance + _ROUNDING:
        return Verdict.MATCH
    if max(interval.low, -interval.high) > tolerance + _ROUNDING:
        return Verdict.MISS
    return Verdict.INCONCLUSIVE


def judge_collapse(collapsed: int, runs: int) -> Verdict:
    """Return the verdict on a cell of which every run is expected to collapse.

    >>> [judge_collapse(collapsed, runs=3) for collapsed in (3, 1, 0)]
    [<Verdict.MATCH: 'match'>, <Verdict.INCONCLUSIVE: 'inconclusive'>, <Verdict.MISS: 'miss'>]
    """
    if collapsed == runs:
        return Verdict.MATCH
    return Verdict.INCONCLUSIVE if collapsed else Verdict.MISS


def judge_claim(interval: Interval | None, smallest: float | None = None) -> ClaimVerdict:
    """Return the verdict on a claimed order, and on its size where ``smallest`` is given.

    Args:
        interval: of the better row minus the other, signed so that positive favours the claim.
        smallest: the least difference that still counts as the claimed size; None tests the order.

    A difference wholly below ``smallest`` contradicts the claim even where the order holds: "about
    two points" is not supported by a tenth of a point. A larger one than claimed is no
    contradiction.
    """
    if interval is None:
        return ClaimVerdict.UNRESOLVED
    if interval.high < 0.0 or (smallest is not None and interval.high < smallest - _ROUNDING):
        return ClaimVerdict.CONTRADICTED
    return ClaimVerdict.SUPPORTED if interval.low > 0.0 else ClaimVerdict.UNRESOLVED


def _common(spreads: Sequence[Spread]) -> Spread:
    """Pool the cells of a column that vary: a value fixed by definition says nothing of chance."""
    varying = [spread for spread in spreads if spread.std > 0.0]
    common = pooled(varying or spreads)
    assert common is not None
    return common


def recorded_tolerances(
    table: Mapping[str, Mapping[str, Sequence[float]]],
    decimals: Mapping[str, int] | None = None,
    false_alarm: float = FALSE_ALARM,
) -> tuple[dict[str, Spread], dict[str, dict[str, float]]]:
    """Choose tolerances under which an unchanged method with one fresh seed is not called a miss.

    Args:
        table: row -> column -> the recorded runs of the cell, at least two.
        decimals: how many a column shows; half of the last one is the least tolerance.
        false_alarm: the share of tables with an unchanged method that may have a fresh seed outside
            its tolerance.

    Returns the column's pooled spread, and row -> column -> tolerance: the half width of Student's
    prediction interval for one fresh run after n, simultaneous over the m cells of the table
    (Bonferroni),

        tolerance = t(1 - false_alarm / (2 m), f) * s * sqrt(1 + 1/n),

    where s is the larger of the cell's std and the std pooled over the column's cells that vary,
    and f the degrees of freedom of the latter. A `miss` needs more still, the whole interval
    outside, so that false alarms are rarer than promised, also where rows share their luck by seed;
    a single fresh seed of an unchanged method usually reads `match`.
    """
    columns: dict[str, list[Spread]] = {}
    for cells in table.values():
        for column, runs in cells.items():
            spread = spread_of(runs)
            if spread is None:
                raise ValueError(f"column {column}: one recorded run has no spread")
            columns.setdefault(column, []).append(spread)
    spreads_by_column = {column: _common(spreads) for column, spreads in columns.items()}
    count = sum(map(len, columns.values()))
    tolerances: dict[str, dict[str, float]] = {}
    for row, cells in table.items():
        tolerances[row] = {}
        for column, runs in cells.items():
            spread = larger(spread_of(runs), spreads_by_column[column])
            assert spread is not None
            quantile = student_quantile(1.0 - false_alarm / (2 * count), spread.degrees)
            shown = 0.5 * 10.0 ** -(decimals or {}).get(column, 1)
            prediction = quantile * spread.std * math.sqrt(1.0 + 1.0 / len(runs))
            tolerances[row][column] = max(prediction, shown)
    return spreads_by_column, tolerances


def seeds_to_decide(interval: Interval, tolerance: float, spread: Spread, runs: int) -> int | None:
    """Return how many seeds would end an inconclusive verdict, None if 100 would not.

    Supposes that the difference and the spread stay as they are.
    """
    quantile = student_quantile(0.975, spread.degrees)
    for count in range(2, 101):
        half = quantile * spread.std * math.sqrt(1.0 / count + 1.0 / runs)
        centre = interval.centre
        if judge(Interval(centre, centre - half, centre + half), tolerance) in (
            Verdict.MATCH,
            Verdict.MISS,
        ):
            return count
    return None
