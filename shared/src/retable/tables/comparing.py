"""Set what we measured beside what is stored, and judge every cell and claim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from retable.errors import UserError
from retable.tables.cells import compare_cell
from retable.tables.claims import compare_claim
from retable.tables.comparison import Collapsed, ComparedRow, Comparison, Measured, Scale
from retable.tables.evidence import Evidence
from retable.tables.reference import ColumnSpec, Reference, RowSpec


def compare(
    reference: Reference,
    measured: Measured,
    paper: Reference | None = None,
    scale: Scale = "proxy",
    *,
    not_run: Mapping[str, str] | None = None,
    failed: Mapping[str, Mapping[str, str]] | None = None,
    collapsed: Collapsed | None = None,
    labels: Mapping[str, str] | None = None,
    unfinished: str = "",
) -> Comparison:
    """Compare what we measured with the stored numbers.

    Args:
        reference: what the verdicts compare with: the paper's table at paper scale, the recorded
            one at proxy scale. A paper's table given at another scale is shown, never judged by.
        measured: row -> column -> seed -> number. Rows that no reference has are added at the end.
        paper: the paper's table, shown beside a recorded one; it also states rows and claims.
        scale: "paper", "proxy" or "smoke" (which claims nothing).
        not_run: row key or column key -> why it was not run.
        failed: row -> column -> which training behind the cell failed, and why: it misses, whatever
            other seeds gave.
        collapsed: row -> column -> seed -> why a run without number there counts as collapsed.
        labels: row key -> label of added rows; the key itself by default.
        unfinished: why these numbers claim nothing, for instance a run that was cut short.

    Raises:
        UserError: if a measured column is in no reference file.
    """
    if scale == "smoke":
        unfinished = unfinished or "smoke scale checks the plumbing and claims nothing"
    shown = paper or reference
    fits = reference.recorded == (scale == "proxy") and scale != "smoke"
    judged_by = reference if fits else None
    columns = _joined_columns(shown, reference)
    _check_columns(measured, columns, shown)
    rows = _joined_rows(shown, reference, [*measured, *(collapsed or {})], labels or {})
    evidence = Evidence(
        shown, judged_by, measured, scale, unfinished, failed or {}, collapsed or {}
    )
    return Comparison(
        shown.id,
        shown.title,
        shown.paper,
        shown.source,
        shown.dataset,
        shown.notes,
        scale,
        columns,
        tuple(
            ComparedRow(
                row,
                {c.key: compare_cell(evidence, row, c, not_run or {}) for c in columns},
            )
            for row in rows
        ),
        tuple(compare_claim(evidence, claim) for claim in shown.claims),
        judged_by.provenance if judged_by else None,
        _reasons(judged_by) if judged_by else {},
        unfinished,
    )


def _joined_columns(shown: Reference, reference: Reference) -> tuple[ColumnSpec, ...]:
    known = {column.key for column in shown.columns}
    return shown.columns + tuple(c for c in reference.columns if c.key not in known)


def _joined_rows(
    shown: Reference, reference: Reference, measured: Iterable[str], labels: Mapping[str, str]
) -> list[RowSpec]:
    rows = {row.key: row for row in (*reference.rows, *shown.rows)}
    order = dict.fromkeys([*(row.key for row in (*shown.rows, *reference.rows)), *measured])
    return [
        rows.get(key) or RowSpec(key, labels.get(key, key), "extra", recipe={}, values={})
        for key in order
    ]


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
                    f"Row '{row}' of {shown.id} measures the column '{column}', which"
                    f" {shown.path or 'the reference'} does not have: add it under [[columns]]"
                    f" (there are {', '.join(known)})."
                )
