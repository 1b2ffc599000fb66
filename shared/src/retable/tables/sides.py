"""The two sides of a comparison: what was measured, and what is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from retable.tables.comparison import Collapsed, Measured, Pairing, Scale, all_finite
from retable.tables.reference import Reference
from retable.tables.statistics import Spread, larger, pool_varying, spread_of, spread_of_pairs


@dataclass(frozen=True)
class Sides:
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
        """Return our values of a cell by seed."""
        return self.measured.get(row, {}).get(column, {})

    def failure(self, row: str, column: str) -> str:
        """Return which training of a cell failed, and why; empty if none did."""
        return self.failed.get(row, {}).get(column, "")

    def collapses(self, row: str, column: str) -> Mapping[int, str]:
        """Return why runs of a cell count as collapsed, by seed."""
        return self.collapsed.get(row, {}).get(column, {})

    def recorded(self, row: str, column: str) -> dict[int, float]:
        """Return the stored values of those of our seeds that were recorded."""
        value = self.target.value(row, column) if self.target else None
        if value is None or self.target is None or self.target.provenance is None:
            return {}
        stored = dict(zip(self.target.provenance.seeds, value.per_seed, strict=False))
        return {seed: stored[seed] for seed in self.ours(row, column) if seed in stored}

    @property
    def pairing(self) -> Pairing:
        """How all seeds are compared, see `Comparison`."""
        if self.target is None or self.target.provenance is None:
            return ""
        cells = [found for row in self.measured.values() for found in row.values()]
        seeds = {seed for found in cells for seed in found}
        if not seeds or not seeds <= set(self.target.provenance.seeds):
            return ""
        return "repeated" if self.repeats else "paired"

    @cached_property
    def cells(self) -> int:
        """Number of recorded cells with a verdict, over which tolerances are simultaneous."""
        assert self.target is not None
        judged = [column.key for column in self.target.columns if not column.unjudged]
        rows = [row.key for row in self.target.rows if not row.unjudged]
        found = [self.target.value(row, column) for row in rows for column in judged]
        return max(1, sum(value is not None for value in found))

    def pair_spread(self, row: str, column: str) -> Spread | None:
        """Return the spread of our values minus the stored ones of their seeds; None if unknown."""
        assert self.target is not None
        single = cell_spread(self.target, row, column)
        if single is None:
            return None
        independent = Spread(math.sqrt(2.0) * single.std, single.degrees)
        own = self._own_pairs.get(column, {}).get(row)
        return spread_of_pairs(own, self._pooled_pairs.get(column), independent)

    @cached_property
    def _own_pairs(self) -> dict[str, dict[str, Spread]]:
        """Column -> row -> spread of the differences of at least two seeds."""
        found: dict[str, dict[str, Spread]] = {}
        for row, cells in self.measured.items():
            for column, ours in cells.items():
                stored = self.recorded(row, column)
                spread = spread_of([ours[seed] - stored[seed] for seed in stored])
                if spread is not None and all_finite(ours):
                    found.setdefault(column, {})[row] = spread
        return found

    @cached_property
    def _pooled_pairs(self) -> dict[str, Spread]:
        return {c: pool_varying(rows.values()) for c, rows in self._own_pairs.items()}


def cell_spread(reference: Reference, row: str, column: str) -> Spread | None:
    """Return the run-to-run spread of a reference cell: its own or, if larger, its column's."""
    value, spec = reference.value(row, column), reference.column(column)
    return larger(value.spread if value else None, spec.spread if spec else None)
