"""Verdicts on cells: our value against the stored one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from retable.tables.comparison import ComparedCell, all_finite
from retable.tables.reference import Collapse, ColumnSpec, RowSpec, Value
from retable.tables.sides import Sides, cell_spread
from retable.tables.statistics import (
    Interval,
    Spread,
    difference_of_means,
    expected_difference,
    interval_of_mean,
    mean,
    spread_of,
)
from retable.tables.verdict import (
    REPEAT_SHARE,
    Verdict,
    cell_verdict,
    is_firm,
    seeds_to_decide,
    smallest_miss,
    tolerance_of_mean,
    tolerance_of_pairs,
)

NOT_FINITE = "a run gave a number that is not finite"


def compare_cell(both: Sides, row: RowSpec, column: ColumnSpec) -> ComparedCell:
    """Compare our values of a cell with its stored value or collapse."""
    keys = row.key, column.key
    cell = ComparedCell(
        paper=None if both.shown.recorded else both.shown.stored(*keys),
        reference=both.target.stored(*keys) if both.target else None,
        ours=dict(sorted(both.ours(*keys).items())),
        collapsed=dict(sorted(both.collapses(*keys).items())),
    )
    unjudged = column.unjudged or row.unjudged
    without = both.unfinished or unjudged or _nothing_to_match(both, keys, cell)
    failed = both.failure(*keys)
    if failed and not without:
        return replace(cell, verdict=Verdict.MISS, reason=failed)
    if not cell.measured:
        if row.origin == "cited":
            return replace(cell, reason="cited by the paper: printed, not run")
        if unjudged:
            return replace(cell, reason=unjudged)
        if not cell.filled and not _reported_missing(both, row, column):
            return cell
        why = failed or both.not_run.get(row.key) or both.not_run.get(column.key) or column.not_run
        return replace(cell, verdict=Verdict.NOT_RUN, reason=why)
    if without:
        return replace(cell, reason=without)
    if cell.collapsed or _expected(cell):
        return _compare_collapse(cell)
    return _compare_value(both, row, column, cell)


def _expected(cell: ComparedCell) -> Collapse | None:
    """Return the collapse that is expected: the paper's at every scale, else the reference's."""
    stated = cell.paper if isinstance(cell.paper, Collapse) else cell.reference
    return stated if isinstance(stated, Collapse) else None


def _nothing_to_match(both: Sides, keys: tuple[str, str], cell: ComparedCell) -> str:
    """Return why a cell has nothing to compare with, empty if it has."""
    if _expected(cell):
        return ""
    if both.target is None or cell.reference is None:
        kind = "recorded proxy reference" if both.scale == "proxy" else "number in the paper"
        return f"no {kind} for this cell"
    known = both.target.tolerance_of(*keys) is not None
    return "" if known else "no tolerance is stated for this cell"


def _reported_missing(both: Sides, row: RowSpec, column: ColumnSpec) -> bool:
    """Whether a row without any value, ours or theirs, is reported as not run in this column.

    In every column if the table prints only orders, else once, in the first. A column that prints
    no number and was not run is reported in every row.
    """
    if column.key in both.not_run and not any(
        column.key in each.values for each in both.shown.rows
    ):
        return True
    ours = both.measured.get(row.key, {}), both.collapsed.get(row.key, {})
    if row.values or any(found for side in ours for found in side.values()):
        return False
    prints_values = any(other.values for other in both.shown.rows)
    return not prints_values or column == both.shown.columns[0]


def _compare_collapse(cell: ComparedCell) -> ComparedCell:
    collapsed, runs = len(cell.collapsed), len(cell.collapsed) + len(cell.ours)
    count, expected = f"{collapsed} of {runs} seeds collapsed", _expected(cell)
    if expected is None:
        return replace(cell, verdict=Verdict.MISS, reason=f"{count}, no collapse was expected")
    if not expected.always:
        reason = f"{count}, {expected.collapsed} of {expected.runs} recorded ones did"
        return replace(cell, verdict=Verdict.INCONCLUSIVE, reason=reason)
    if not collapsed:
        return replace(cell, verdict=Verdict.MISS, reason="expected collapse")
    if collapsed < runs:
        return replace(cell, verdict=Verdict.INCONCLUSIVE, reason=f"{count}, all should")
    return replace(cell, verdict=Verdict.MATCH)


def _compare_value(
    both: Sides, row: RowSpec, column: ColumnSpec, cell: ComparedCell
) -> ComparedCell:
    value, target = cell.reference, both.target
    assert isinstance(value, Value)
    assert target is not None
    stated = target.tolerance_of(row.key, column.key)
    assert stated is not None
    cell = replace(cell, tolerance=stated)
    if not all_finite(cell.ours):
        return replace(cell, verdict=Verdict.MISS, reason=NOT_FINITE)
    stored = both.recorded(row.key, column.key)
    if both.repeats and stored:
        repeated = _compare_repeated(cell, stored, REPEAT_SHARE * stated)
        if repeated.verdict is Verdict.MISS or len(stored) == len(cell.ours):
            return repeated
    # Below half of the last decimal shown, no difference is seen.
    least = min(stated, 0.5 * 10.0**-column.decimals)
    spread = both.pair_spread(row.key, column.key)
    if spread is not None and len(stored) == len(cell.ours):
        return _compare_pairs(both, cell, stored, spread, least)
    return _compare_means(both, row, column, cell, least)


def _compare_repeated(
    cell: ComparedCell, stored: Mapping[int, float], tolerance: float
) -> ComparedCell:
    """Compare each recorded seed with its own stored value, which it must repeat."""
    seed = max(stored, key=lambda seed: abs(cell.ours[seed] - stored[seed]))
    difference = cell.ours[seed] - stored[seed]
    cell = _judged(cell, difference, Interval(difference, difference, difference), tolerance)
    if cell.verdict is Verdict.MATCH:
        return cell
    return replace(cell, reason=f"seed {seed} repeats a recorded run, which gave {stored[seed]:g}")


def _compare_pairs(
    both: Sides, cell: ComparedCell, stored: Mapping[int, float], spread: Spread, least: float
) -> ComparedCell:
    """Compare the mean of recorded seeds with that of their own stored values."""
    value, single = cell.reference, cell.tolerance
    assert isinstance(value, Value)
    assert single is not None
    pairs, runs = len(stored), value.runs_at_least
    difference = mean([cell.ours[seed] - stored[seed] for seed in stored])
    interval = interval_of_mean(difference, spread, pairs)
    tolerance = max(tolerance_of_pairs(single, pairs, runs, spread, both.cells), least)
    cell = _judged(cell, difference, interval, tolerance)
    if cell.verdict is not Verdict.INCONCLUSIVE:
        return cell
    return replace(cell, reason="compared by seed; seeds that were not recorded may decide")


def _compare_means(
    both: Sides, row: RowSpec, column: ColumnSpec, cell: ComparedCell, least: float
) -> ComparedCell:
    """Compare the mean of our seeds with the stored mean."""
    value, single, target = cell.reference, cell.tolerance, both.target
    assert isinstance(value, Value)
    assert single is not None
    assert target is not None
    ours, runs = list(cell.ours.values()), value.runs_at_least

    def tolerance(count: int) -> float:
        # A paper's tolerance is for its own number, ours for one fresh run.
        return max(tolerance_of_mean(single, count, runs), least) if target.recorded else single

    spread = cell_spread(target, row.key, column.key)
    interval = difference_of_means(ours, value.value, runs, spread)
    cell = _judged(cell, mean(ours) - value.value, interval, tolerance(len(ours)))
    if cell.verdict is not Verdict.INCONCLUSIVE:
        return cell
    known = spread or spread_of(ours)
    if known is None:
        return replace(cell, reason="no spread is known on either side; run more seeds")

    def expected(count: int) -> tuple[Interval, float]:
        return expected_difference(ours, value.value, runs, known, count), tolerance(count)

    return replace(cell, seeds_needed=seeds_to_decide(expected, len(ours)))


def _judged(
    cell: ComparedCell, difference: float, interval: Interval | None, tolerance: float
) -> ComparedCell:
    """Return the cell with its verdict."""
    return replace(
        cell,
        tolerance=tolerance,
        interval=interval,
        verdict=cell_verdict(difference, interval, tolerance),
        firm=is_firm(interval, tolerance),
        smallest_miss=smallest_miss(interval, tolerance),
    )
