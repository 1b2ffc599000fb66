"""Judge one cell: a number against the stored one, a collapse against what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from retable.tables.comparison import ComparedCell, all_finite
from retable.tables.evidence import Evidence, stand_in_spread
from retable.tables.reference import Collapse, ColumnSpec, RowSpec, Value
from retable.tables.statistics import difference_of_means, spread_of
from retable.tables.verdict import Verdict, judge, judge_collapse, seeds_to_decide


def compare_cell(
    evidence: Evidence, row: RowSpec, column: ColumnSpec, not_run: Mapping[str, str]
) -> ComparedCell:
    """Set a cell's stored number beside ours and judge it.

    Args:
        evidence: both tables.
        row: the cell's row.
        column: its column.
        not_run: row key or column key -> why it was not run.
    """
    keys = row.key, column.key
    shown, judged_by = evidence.shown, evidence.judged_by
    cell = ComparedCell(
        paper=None if shown.recorded else shown.stored(*keys),
        reference=judged_by.stored(*keys) if judged_by else None,
        ours=dict(sorted(evidence.ours(*keys).items())),
        collapsed=dict(sorted(evidence.collapses(*keys).items())),
    )
    silent = _nothing_to_judge(evidence, row, column, cell)
    failed = evidence.failure(*keys)
    if failed and not silent:
        return replace(cell, verdict=Verdict.MISS, reason=failed)
    if not cell.ours and not cell.collapsed:
        why = failed or not_run.get(row.key) or not_run.get(column.key) or column.not_run
        return _absent(evidence, row, column, cell, why)
    if silent:
        return replace(cell, reason=silent)
    if cell.collapsed or _expected(cell):
        return _judged_collapse(cell)
    return _judged_number(evidence, row, column, cell)


def _expected(cell: ComparedCell) -> Collapse | None:
    """Return the collapse that is expected: the paper's at every scale, else the reference's."""
    stated = cell.paper if isinstance(cell.paper, Collapse) else cell.reference
    return stated if isinstance(stated, Collapse) else None


def _nothing_to_judge(
    evidence: Evidence, row: RowSpec, column: ColumnSpec, cell: ComparedCell
) -> str:
    """Return why a measured cell gets no verdict, empty if it does."""
    if evidence.unfinished:
        return evidence.unfinished
    if column.unjudged or row.unjudged:
        return column.unjudged or row.unjudged
    if _expected(cell):
        return ""
    if evidence.judged_by is None or cell.reference is None:
        proxy = evidence.scale == "proxy"
        kind = "recorded proxy reference" if proxy else "number in the paper"
        return f"no {kind} for this cell"
    known = evidence.judged_by.tolerance_of(row.key, column.key) is not None
    return "" if known else "no tolerance is stated for this cell"


def _absent(
    evidence: Evidence, row: RowSpec, column: ColumnSpec, cell: ComparedCell, why: str
) -> ComparedCell:
    """Judge a cell without measurement: a gap of ours, or nothing that was to be run."""
    if row.origin == "cited":
        return replace(cell, reason="cited by the paper: printed, not run")
    if column.unjudged or row.unjudged:
        return replace(cell, reason=column.unjudged or row.unjudged)
    stated = cell.paper is not None or cell.reference is not None
    if stated or _said_missing(evidence, row, column):
        return replace(cell, verdict=Verdict.NOT_RUN, reason=why)
    return cell


def _said_missing(evidence: Evidence, row: RowSpec, column: ColumnSpec) -> bool:
    """Whether a row without any number, ours or theirs, is called missing in this column.

    In a table that prints only orders, everywhere; beside printed numbers once, in the first.
    """
    ours = evidence.measured.get(row.key, {}), evidence.collapsed.get(row.key, {})
    if row.values or any(found for side in ours for found in side.values()):
        return False
    prints_numbers = any(other.values for other in evidence.shown.rows)
    return not prints_numbers or column == evidence.shown.columns[0]


def _judged_collapse(cell: ComparedCell) -> ComparedCell:
    """Judge a cell of which a run collapsed, or should have."""
    collapsed, runs = len(cell.collapsed), len(cell.collapsed) + len(cell.ours)
    said, expected = f"{collapsed} of {runs} seeds collapsed", _expected(cell)
    if expected is None:
        return replace(cell, verdict=Verdict.MISS, reason=f"{said}, no collapse was expected")
    if not expected.always:
        recorded = f"{expected.collapsed} of {expected.runs} recorded ones did"
        reason = f"{said}, {recorded}"
        return replace(cell, verdict=Verdict.INCONCLUSIVE, reason=reason)
    verdict = judge_collapse(collapsed, runs)
    reasons = {Verdict.MISS: "expected collapse", Verdict.INCONCLUSIVE: f"{said}, all should"}
    return replace(cell, verdict=verdict, reason=reasons.get(verdict, ""))


def _judged_number(
    evidence: Evidence, row: RowSpec, column: ColumnSpec, cell: ComparedCell
) -> ComparedCell:
    """Judge a cell by where the interval of its difference lies."""
    value, reference = cell.reference, evidence.judged_by
    assert isinstance(value, Value)
    assert reference is not None
    tolerance = reference.tolerance_of(row.key, column.key)
    assert tolerance is not None
    cell = replace(cell, tolerance=tolerance)
    if not all_finite(cell.ours):
        reason = "a run gave a number that is not finite"
        return replace(cell, verdict=Verdict.MISS, reason=reason)
    runs = list(cell.ours.values())
    spread = stand_in_spread(reference, row.key, column.key)
    interval = difference_of_means(runs, value.value, value.runs_at_least, spread)
    verdict = judge(interval, tolerance)
    reason, needed = "", None
    if interval is None:
        reason = "no spread is known on either side; run more seeds"
    elif verdict is Verdict.INCONCLUSIVE:
        known = spread or spread_of(runs)
        assert known is not None
        needed = seeds_to_decide(interval, tolerance, known, value.runs_at_least)
    return replace(cell, interval=interval, verdict=verdict, reason=reason, seeds_needed=needed)
