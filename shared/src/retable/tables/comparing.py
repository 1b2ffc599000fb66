"""Comparison of measured values with stored ones: a verdict for every cell and claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from retable.errors import UserError
from retable.tables.comparison import (
    Collapsed,
    ComparedCell,
    ComparedClaim,
    ComparedRow,
    Comparison,
    Measured,
    Scale,
    all_finite,
)
from retable.tables.reference import Claim, Collapse, ColumnSpec, Reference, RowSpec, Value
from retable.tables.statistics import (
    Interval,
    Spread,
    difference_of_means,
    larger,
    mean_of_differences,
    spread_of,
)
from retable.tables.verdict import (
    REPEAT_SHARE,
    Verdict,
    cell_verdict,
    claim_verdict,
    seeds_to_decide,
)

_NOT_FINITE = "a run gave a number that is not finite"


def compare(
    reference: Reference,
    measured: Measured,
    paper: Reference | None = None,
    scale: Scale = "proxy",
    *,
    not_run: Mapping[str, str] | None = None,
    failed: Mapping[str, Mapping[str, str]] | None = None,
    collapsed: Collapsed | None = None,
    unfinished: str = "",
    repeats: bool = False,
) -> Comparison:
    """Compare measured values with the stored ones.

    Args:
        reference: table that the verdicts compare with: the paper's at paper scale, the recorded
            one at proxy scale. A paper's table given at another scale is shown without verdicts.
        measured: row -> column -> seed -> value. Rows that no reference has are added at the end.
        paper: the paper's table, shown next to a recorded one; it also states rows and claims.
        scale: "paper", "proxy" or "smoke" (which gives no verdicts).
        not_run: row key or column key -> why it was not run.
        failed: row -> column -> which training of the cell failed, and why. Such a cell is a miss,
            whatever other seeds gave.
        collapsed: row -> column -> seed -> why a run without a value counts as collapsed.
        unfinished: why these values claim nothing, for instance a run that was cut short.
        repeats: whether versions and processor are those of the recording. Runs with a recorded
            seed are then compared with that seed's stored values, see `REPEAT_SHARE`.

    Raises:
        UserError: if a measured column is in no reference file.
    """
    if scale == "smoke":
        unfinished = unfinished or "smoke scale checks the plumbing and claims nothing"
    shown = paper or reference
    fits = reference.recorded == (scale == "proxy") and scale != "smoke"
    target = reference if fits else None
    known = {column.key for column in shown.columns}
    columns = shown.columns + tuple(c for c in reference.columns if c.key not in known)
    _check_columns(measured, columns, shown)
    rows = {row.key: row for row in shown.rows}
    for row in reference.rows:
        rows.setdefault(row.key, row)
    for key in (*measured, *(collapsed or {})):
        rows.setdefault(key, RowSpec(key, key, "extra", values={}))
    reported = not_run or {}, failed or {}, collapsed or {}
    both = _Sides(shown, target, measured, *reported, scale, unfinished, repeats)
    compared = (
        ComparedRow(row, {column.key: _compare_cell(both, row, column) for column in columns})
        for row in rows.values()
    )
    return Comparison(
        shown.table,
        scale,
        columns,
        tuple(compared),
        tuple(_compare_claim(both, claim) for claim in shown.claims),
        target.provenance if target else None,
        _reasons(target) if target else {},
        unfinished,
    )


def _reasons(reference: Reference) -> dict[str, str]:
    reasons = {}
    for column in reference.columns:
        tolerance, spread = column.tolerance or reference.tolerance, column.spread
        texts = [tolerance.reason] if tolerance else []
        texts += [f"Run-to-run std {spread.std:g}: {spread.reason}"] if spread else []
        if texts:
            reasons[column.key] = " ".join(texts)
    return reasons


def _check_columns(measured: Measured, columns: tuple[ColumnSpec, ...], shown: Reference) -> None:
    known = [column.key for column in columns]
    for row, cells in measured.items():
        for column in cells:
            if column not in known:
                raise UserError(
                    f"Row '{row}' of {shown.table.id} measures the column '{column}', which is not"
                    f" among {', '.join(known)}. Add it under [[columns]] to"
                    f" {shown.path or 'the reference'}."
                )


@dataclass(frozen=True)
class _Sides:
    """Stored tables, and the arguments of `compare` with what was measured.

    Attributes:
        shown: the paper's table, or the only one there is.
        target: table that verdicts compare with; None if no stored table fits the scale.
    """

    shown: Reference
    target: Reference | None
    measured: Measured
    not_run: Mapping[str, str]
    failed: Mapping[str, Mapping[str, str]]
    collapsed: Collapsed
    scale: Scale
    unfinished: str
    repeats: bool

    def ours(self, row: str, column: str) -> Mapping[int, float]:
        return self.measured.get(row, {}).get(column, {})

    def failure(self, row: str, column: str) -> str:
        return self.failed.get(row, {}).get(column, "")

    def collapses(self, row: str, column: str) -> Mapping[int, str]:
        return self.collapsed.get(row, {}).get(column, {})


def _spread(reference: Reference, row: str, column: str) -> Spread | None:
    """Return the run-to-run spread of a reference cell: its own or, if larger, its column's."""
    value, spec = reference.value(row, column), reference.column(column)
    return larger(value.spread if value else None, spec.spread if spec else None)


# Cells.


def _compare_cell(both: _Sides, row: RowSpec, column: ColumnSpec) -> ComparedCell:
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


def _nothing_to_match(both: _Sides, keys: tuple[str, str], cell: ComparedCell) -> str:
    """Return why a cell has nothing to compare with, empty if it has."""
    if _expected(cell):
        return ""
    if both.target is None or cell.reference is None:
        kind = "recorded proxy reference" if both.scale == "proxy" else "number in the paper"
        return f"no {kind} for this cell"
    known = both.target.tolerance_of(*keys) is not None
    return "" if known else "no tolerance is stated for this cell"


def _reported_missing(both: _Sides, row: RowSpec, column: ColumnSpec) -> bool:
    """Whether a row without any value, ours or theirs, is reported as not run in this column.

    In every column if the table prints only orders, else once, in the first.
    """
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
    both: _Sides, row: RowSpec, column: ColumnSpec, cell: ComparedCell
) -> ComparedCell:
    value, target = cell.reference, both.target
    assert isinstance(value, Value)
    assert target is not None
    tolerance = target.tolerance_of(row.key, column.key)
    assert tolerance is not None
    cell = replace(cell, tolerance=tolerance)
    if not all_finite(cell.ours):
        return replace(cell, verdict=Verdict.MISS, reason=_NOT_FINITE)
    if both.repeats and (stored := _stored_seeds(target, cell.ours, value)):
        return _compare_repeated(cell, stored, REPEAT_SHARE * tolerance)
    runs = list(cell.ours.values())
    spread = _spread(target, row.key, column.key)
    interval = difference_of_means(runs, value.value, value.runs_at_least, spread)
    verdict = cell_verdict(interval, tolerance)
    reason, needed = "", None
    if interval is None:
        reason = "no spread is known on either side; run more seeds"
    elif verdict is Verdict.INCONCLUSIVE:
        known = spread or spread_of(runs)
        assert known is not None
        needed = seeds_to_decide(interval, tolerance, known, value.runs_at_least)
    return replace(cell, interval=interval, verdict=verdict, reason=reason, seeds_needed=needed)


def _stored_seeds(target: Reference, ours: Mapping[int, float], value: Value) -> dict[int, float]:
    """Return the stored value of each of our seeds, empty if one of them was not recorded."""
    seeds = target.provenance.seeds if target.provenance else ()
    stored = dict(zip(seeds, value.per_seed, strict=False))
    return {seed: stored[seed] for seed in ours} if ours.keys() <= stored.keys() else {}


def _compare_repeated(
    cell: ComparedCell, stored: Mapping[int, float], tolerance: float
) -> ComparedCell:
    """Compare each seed with its own stored value."""
    seed = max(stored, key=lambda seed: abs(cell.ours[seed] - stored[seed]))
    difference = cell.ours[seed] - stored[seed]
    cell = replace(cell, tolerance=tolerance, interval=Interval(difference, difference, difference))
    if abs(difference) <= tolerance:
        return replace(cell, verdict=Verdict.MATCH)
    reason = f"seed {seed} repeats a recorded run, which gave {stored[seed]:g}"
    return replace(cell, verdict=Verdict.MISS, reason=reason)


# Claims.


def _compare_claim(both: _Sides, claim: Claim) -> ComparedClaim:
    column = both.shown.column(claim.column)
    assert column is not None
    sign = 1.0 if column.higher_is_better else -1.0
    better, than = (both.ours(key, claim.column) for key in (claim.better, claim.than))
    seeds = sorted(better.keys() & than.keys())
    differences = {seed: sign * (better[seed] - than[seed]) for seed in seeds}
    smallest = _smallest(both, claim)
    interval, reason = None, both.unfinished or _incomplete(both, claim)
    if reason:
        smallest = None
    elif not all_finite(differences):
        reason = _NOT_FINITE
    elif seeds:
        interval = mean_of_differences(list(differences.values()), _paired_spread(both, claim))
        reason = "" if interval else "one seed and no known spread; run more seeds"
    elif interval := _difference_from_printed(both, claim, sign):
        reason = f"against the printed value of '{claim.than}'"
    else:
        found = {claim.better: better, claim.than: than}
        missing = " and ".join(f"'{key}'" for key, values in found.items() if not values)
        reason = f"{missing} not run" if missing else "the two rows have no seed in common"
    verdict = claim_verdict(interval, smallest)
    return ComparedClaim(claim, verdict, interval, differences, smallest, reason)


def _incomplete(both: _Sides, claim: Claim) -> str:
    """Return why a row lacks some of its values, so that the others prove nothing."""
    for key in (claim.better, claim.than):
        if failed := both.failure(key, claim.column):
            return failed
        if collapsed := len(both.collapses(key, claim.column)):
            runs = collapsed + len(both.ours(key, claim.column))
            return f"'{key}' collapsed in {collapsed} of {runs} seeds"
    return ""


def _smallest(both: _Sides, claim: Claim) -> float | None:
    """Return the margin less the column's tolerance at paper scale; elsewhere only order counts."""
    if both.scale != "paper" or claim.margin <= 0.0:
        return None
    tolerance = both.shown.tolerance_of(claim.better, claim.column)
    return None if tolerance is None else claim.margin - tolerance


def _paired_spread(both: _Sides, claim: Claim) -> Spread | None:
    """Return the spread of one paired difference as the reference knows it."""
    if both.target is None:
        return None
    better = both.target.value(claim.better, claim.column)
    than = both.target.value(claim.than, claim.column)
    if better and than and better.per_seed and than.per_seed:
        pairs = zip(better.per_seed, than.per_seed, strict=True)
        return spread_of([a - b for a, b in pairs])
    column = both.target.column(claim.column)
    if column is None or column.spread is None:
        return None
    # Without recorded pairs, the difference of two independent runs of the column.
    return Spread(2.0**0.5 * column.spread.std, column.spread.degrees)


def _difference_from_printed(both: _Sides, claim: Claim, sign: float) -> Interval | None:
    """Compare with the printed value of a cited row, which nobody reruns, at paper scale."""
    than = both.shown.row(claim.than)
    ours = list(both.ours(claim.better, claim.column).values())
    value = both.shown.value(claim.than, claim.column)
    if both.scale != "paper" or than is None or than.origin != "cited" or not ours or not value:
        return None
    spread = _spread(both.shown, claim.than, claim.column)
    return difference_of_means(
        [sign * v for v in ours], sign * value.value, value.runs_at_least, spread
    )
