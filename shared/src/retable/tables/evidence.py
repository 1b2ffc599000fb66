"""What cells and claims are judged from: the stored tables, what was measured, what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retable.tables.comparison import Collapsed, Measured, Scale
from retable.tables.reference import Reference
from retable.tables.statistics import Spread, larger


@dataclass(frozen=True)
class Evidence:
    """Both sides of a comparison.

    Attributes:
        shown: the paper's table, or the only one there is.
        judged_by: what verdicts compare with, None where nothing stored fits the scale.
        measured: our numbers.
        scale: at which they were measured.
        unfinished: why they claim nothing, empty if they do.
        failed: row -> column -> which training behind the cell failed, and why.
        collapsed: row -> column -> seed -> why the run counts as collapsed; it has no number then.
    """

    shown: Reference
    judged_by: Reference | None
    measured: Measured
    scale: Scale
    unfinished: str
    failed: Mapping[str, Mapping[str, str]]
    collapsed: Collapsed

    def ours(self, row_key: str, column_key: str) -> Mapping[int, float]:
        """Return a cell's numbers by seed, empty if it was not measured."""
        return self.measured.get(row_key, {}).get(column_key, {})

    def failure(self, row_key: str, column_key: str) -> str:
        """Return why a training behind the cell failed, empty if none did."""
        return self.failed.get(row_key, {}).get(column_key, "")

    def collapses(self, row_key: str, column_key: str) -> Mapping[int, str]:
        """Return the seeds of a cell that collapsed, and why they count as that."""
        return self.collapsed.get(row_key, {}).get(column_key, {})


def stand_in_spread(reference: Reference, row_key: str, column_key: str) -> Spread | None:
    """Return the run-to-run spread of one reference cell: its own or, if larger, its column's."""
    value, column = reference.value(row_key, column_key), reference.column(column_key)
    stated = column.spread.spread if column and column.spread else None
    return larger(value.spread if value else None, stated)
