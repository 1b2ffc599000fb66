"""Comparison of measured values with stored ones: a verdict for every cell and claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retable.errors import UserError
from retable.tables.cells import compare_cell
from retable.tables.claims import Facts, compare_claim
from retable.tables.comparison import Collapsed, ComparedRow, Comparison, Measured, Scale
from retable.tables.reference import ColumnSpec, Reference, RowSpec
from retable.tables.sides import Sides


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
    facts: Facts | None = None,
    notes: Sequence[str] = (),
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
        repeats: whether versions and processor are those of the recording. Each run with a recorded
            seed must then give that seed's stored values, see `REPEAT_SHARE`. Elsewhere recorded
            seeds are compared with theirs in the mean, and other seeds with the mean of all.
        facts: what shows with these recipes; a claim that depends on anything else is not tested.
            None: every claim is tested.
        notes: sentences about the table as a whole, shown beneath it.

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
    both = Sides(shown, target, measured, *reported, scale, unfinished, repeats)
    compared = (
        ComparedRow(row, {column.key: compare_cell(both, row, column) for column in columns})
        for row in rows.values()
    )
    return Comparison(
        shown.table,
        scale,
        columns,
        tuple(compared),
        tuple(compare_claim(both, claim, facts) for claim in shown.claims),
        target.provenance if target else None,
        _reasons(target) if target else {},
        unfinished,
        both.pairing,
        tuple(notes),
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
