"""Set what we measured beside what is stored, and judge every cell and claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retable.errors import UserError
from retable.tables.comparison import (
    ComparedCell,
    ComparedClaim,
    ComparedRow,
    Comparison,
    Measured,
    Scale,
    all_finite,
)
from retable.tables.reference import Claim, Column, Reference, Row, Value
from retable.tables.statistics import (
    Interval,
    Spread,
    difference_of_means,
    larger,
    mean_of_differences,
    spread_of,
)
from retable.tables.verdict import ClaimVerdict, Verdict, judge, judge_claim, seeds_to_decide


def stand_in_spread(reference: Reference, row_key: str, column_key: str) -> Spread | None:
    """Return the run-to-run spread of one reference cell: its own or, if larger, its column's."""
    value, column = reference.value(row_key, column_key), reference.column(column_key)
    stated = column.spread.spread if column and column.spread else None
    return larger(value.spread if value else None, stated)


def compare(
    reference: Reference,
    measured: Measured,
    paper: Reference | None = None,
    scale: Scale = "proxy",
    *,
    not_run: Mapping[str, str] | None = None,
    failed: Mapping[str, Mapping[str, str]] | None = None,
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
    rows = _joined_rows(shown, reference, measured, labels or {})
    table = _Table(shown, judged_by, measured, scale, unfinished, failed or {})
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
                {column.key: table.cell(row, column, not_run or {}) for column in columns},
            )
            for row in rows
        ),
        tuple(table.claim(claim) for claim in shown.claims),
        judged_by.provenance if judged_by else None,
        _reasons(judged_by) if judged_by else {},
        unfinished,
    )


def _joined_columns(shown: Reference, reference: Reference) -> tuple[Column, ...]:
    known = {column.key for column in shown.columns}
    return shown.columns + tuple(c for c in reference.columns if c.key not in known)


def _joined_rows(
    shown: Reference, reference: Reference, measured: Measured, labels: Mapping[str, str]
) -> list[Row]:
    rows = {row.key: row for row in (*reference.rows, *shown.rows)}
    order = dict.fromkeys([row.key for row in (*shown.rows, *reference.rows)] + list(measured))
    return [
        rows.get(key) or Row(key, labels.get(key, key), "extra", recipe={}, values={})
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


def _check_columns(measured: Measured, columns: tuple[Column, ...], shown: Reference) -> None:
    known = [column.key for column in columns]
    for row, cells in measured.items():
        for column in cells:
            if column not in known:
                raise UserError(
                    f"Row '{row}' of {shown.id} measures the column '{column}', which"
                    f" {shown.path or 'the reference'} does not have: add it under [[columns]]"
                    f" (there are {', '.join(known)})."
                )


@dataclass(frozen=True)
class _Table:
    """What cells and claims are judged from."""

    shown: Reference
    judged_by: Reference | None
    measured: Measured
    scale: Scale
    unfinished: str
    failed: Mapping[str, Mapping[str, str]]

    def ours(self, row_key: str, column_key: str) -> Mapping[int, float]:
        return self.measured.get(row_key, {}).get(column_key, {})

    def cell(self, row: Row, column: Column, not_run: Mapping[str, str]) -> ComparedCell:
        paper = None if self.shown.recorded else self.shown.value(row.key, column.key)
        value = self.judged_by.value(row.key, column.key) if self.judged_by else None
        ours = dict(sorted(self.ours(row.key, column.key).items()))
        tolerance = self.judged_by.tolerance_of(row.key, column.key) if self.judged_by else None
        silent = self._nothing_to_judge(row, column, value, tolerance)
        failed = self.failed.get(row.key, {}).get(column.key, "")
        if failed and not silent:
            return ComparedCell(paper, value, ours, tolerance, None, Verdict.MISS, failed)
        if not ours:
            why = failed or not_run.get(row.key) or not_run.get(column.key) or column.not_run
            return self._absent(row, column, paper, value, why)
        if silent or value is None or tolerance is None or self.judged_by is None:
            return ComparedCell(paper, value, ours, reason=silent)
        if not all_finite(ours):
            broken = "a run gave a number that is not finite"
            return ComparedCell(paper, value, ours, tolerance, None, Verdict.MISS, broken)
        runs = list(ours.values())
        spread = stand_in_spread(self.judged_by, row.key, column.key)
        interval = difference_of_means(runs, value.value, value.runs_at_least, spread)
        verdict = judge(interval, tolerance)
        reason, needed = "", None
        if interval is None:
            reason = "no spread is known on either side; run more seeds"
        elif verdict is Verdict.INCONCLUSIVE:
            known = spread or spread_of(runs)
            assert known is not None
            needed = seeds_to_decide(interval, tolerance, known, value.runs_at_least)
        return ComparedCell(paper, value, ours, tolerance, interval, verdict, reason, needed)

    def _absent(
        self, row: Row, column: Column, paper: Value | None, value: Value | None, why: str
    ) -> ComparedCell:
        """Judge a cell without measurement: a gap of ours, or nothing that was to be run."""
        if row.origin == "cited":
            return ComparedCell(paper, value, reason="cited by the paper: printed, not run")
        if column.unjudged or row.unjudged:
            return ComparedCell(paper, value, reason=column.unjudged or row.unjudged)
        stated = paper is not None or value is not None
        if stated or self._said_missing(row, column):
            return ComparedCell(paper, value, verdict=Verdict.NOT_RUN, reason=why)
        return ComparedCell(paper, value)

    def _said_missing(self, row: Row, column: Column) -> bool:
        """Whether a row without any number, ours or theirs, is called missing in this column.

        In a table that prints only orders, everywhere; beside printed numbers once, in the first.
        """
        if row.values or any(self.measured.get(row.key, {}).values()):
            return False
        prints_numbers = any(other.values for other in self.shown.rows)
        return not prints_numbers or column == self.shown.columns[0]

    def _nothing_to_judge(
        self, row: Row, column: Column, value: Value | None, tolerance: float | None
    ) -> str:
        """Return why a measured cell gets no verdict, empty if it does."""
        if self.unfinished:
            return self.unfinished
        if column.unjudged or row.unjudged:
            return column.unjudged or row.unjudged
        if self.judged_by is None or value is None:
            kind = "recorded proxy reference" if self.scale == "proxy" else "number in the paper"
            return f"no {kind} for this cell"
        return "" if tolerance is not None else "no tolerance is stated for this cell"

    def claim(self, claim: Claim) -> ComparedClaim:
        """Test a claim on the seeds that both rows have."""
        column = self.shown.column(claim.column)
        assert column is not None
        sign = 1.0 if column.higher_is_better else -1.0
        better, than = (self.ours(key, claim.column) for key in (claim.better, claim.than))
        seeds = sorted(set(better) & set(than))
        differences = {seed: sign * (better[seed] - than[seed]) for seed in seeds}
        unresolved = ClaimVerdict.UNRESOLVED
        failed = [self.failed.get(key, {}).get(claim.column) for key in (claim.better, claim.than)]
        lost = [why for why in failed if why]
        if self.unfinished or lost:
            reason = self.unfinished or lost[0]
            return ComparedClaim(claim, unresolved, None, differences, None, reason)
        smallest = self._smallest(claim)
        if not all_finite(differences):
            reason = "a run gave a number that is not finite"
            return ComparedClaim(claim, unresolved, None, differences, smallest, reason)
        if not seeds:
            against = self._against_printed(claim, sign)
            if against is not None:
                reason = f"against the printed value of '{claim.than}'"
                verdict = judge_claim(against, smallest)
                return ComparedClaim(claim, verdict, against, {}, smallest, reason)
            return ComparedClaim(claim, unresolved, None, {}, smallest, self._no_pairs(claim))
        interval = mean_of_differences(list(differences.values()), self._paired_spread(claim))
        reason = "" if interval else "one seed and no known spread; run more seeds"
        verdict = judge_claim(interval, smallest)
        return ComparedClaim(claim, verdict, interval, differences, smallest, reason)

    def _no_pairs(self, claim: Claim) -> str:
        missing = [
            f"'{key}'" for key in (claim.better, claim.than) if not self.ours(key, claim.column)
        ]
        if not missing:
            return "the two rows have no seed in common"
        return f"{' and '.join(missing)} not run"

    def _smallest(self, claim: Claim) -> float | None:
        """At paper scale a margin is part of the claim, less the column's tolerance."""
        if self.scale != "paper" or claim.margin <= 0.0:
            return None
        tolerance = self.shown.tolerance_of(claim.better, claim.column)
        return None if tolerance is None else claim.margin - tolerance

    def _paired_spread(self, claim: Claim) -> Spread | None:
        """Return the spread of one paired difference as the reference knows it."""
        if self.judged_by is None:
            return None
        better = self.judged_by.value(claim.better, claim.column)
        than = self.judged_by.value(claim.than, claim.column)
        if better and than and better.per_seed and than.per_seed:
            pairs = zip(better.per_seed, than.per_seed, strict=True)
            return spread_of([a - b for a, b in pairs])
        column = self.judged_by.column(claim.column)
        if column is None or column.spread is None:
            return None
        # Seeds of one column without pairs on record: two independent runs.
        return Spread(2.0**0.5 * column.spread.std, column.spread.degrees)

    def _against_printed(self, claim: Claim, sign: float) -> Interval | None:
        """Compare with a cited row's printed number, which nobody reruns, at paper scale."""
        than = self.shown.row(claim.than)
        ours = list(self.ours(claim.better, claim.column).values())
        value = self.shown.value(claim.than, claim.column)
        if self.scale != "paper" or than is None or than.origin != "cited" or not ours or not value:
            return None
        spread = stand_in_spread(self.shown, claim.than, claim.column)
        return difference_of_means(
            [sign * v for v in ours], sign * value.value, value.runs_at_least, spread
        )
