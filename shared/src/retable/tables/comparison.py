"""A comparison as data: every cell and claim with its values, interval and verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from retable.tables.reference import (
    Claim,
    Collapse,
    ColumnSpec,
    Provenance,
    RowSpec,
    TableInfo,
    Value,
)
from retable.tables.statistics import Interval, mean, spread_of
from retable.tables.verdict import ClaimVerdict, Verdict

Scale = Literal["paper", "proxy", "smoke"]
Pairing = Literal["", "repeated", "paired"]
Measured = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Row key -> column key -> seed -> value."""
Collapsed = Mapping[str, Mapping[str, Mapping[int, str]]]
"""Row key -> column key -> seed -> why the run counts as collapsed."""


def all_finite(values: Mapping[int, float]) -> bool:
    """Whether no seed gave NaN or infinity."""
    return all(map(math.isfinite, values.values()))


@dataclass(frozen=True)
class ComparedCell:
    """One cell of the printed table.

    Attributes:
        paper: the paper's value or expected collapse; None if it prints nothing.
        reference: value or collapse that ours is compared with; None if there is none.
        ours: seed -> our value; empty if it was not measured.
        tolerance: largest accepted difference of our mean, with as many seeds as there are; None
            without a verdict on a value.
        interval: 95 % interval of our mean minus the reference; None if no spread is known.
        verdict: None if the cell is not compared.
        firm: whether the whole interval of a match lies within the tolerance.
        smallest_miss: smallest difference that would have been a miss; None if none would.
        reason: why the verdict is what it is, or why there is none.
        seeds_needed: number of seeds that would decide an inconclusive cell; None if 100 would not.
        collapsed: seed -> why its run counts as collapsed; such a seed has no value in ``ours``.
    """

    paper: Value | Collapse | None = None
    reference: Value | Collapse | None = None
    ours: Mapping[int, float] = field(default_factory=dict)
    tolerance: float | None = None
    interval: Interval | None = None
    verdict: Verdict | None = None
    firm: bool = False
    smallest_miss: float | None = None
    reason: str = ""
    seeds_needed: int | None = None
    collapsed: Mapping[int, str] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether a run gave a value or collapsed."""
        return bool(self.ours or self.collapsed)

    @property
    def filled(self) -> bool:
        """Whether there is anything to show: measured or stored."""
        return self.measured or self.paper is not None or self.reference is not None

    @property
    def mean(self) -> float | None:
        """Our mean over the seeds that have a value; NaN if any of them is not finite."""
        if not self.ours:
            return None
        return mean(list(self.ours.values())) if all_finite(self.ours) else math.nan

    @property
    def std(self) -> float | None:
        """Our sample std over seeds; None for fewer than two."""
        spread = spread_of(list(self.ours.values())) if all_finite(self.ours) else None
        return spread.std if spread else None


@dataclass(frozen=True)
class ComparedRow:
    """A row and its cells by column key."""

    row: RowSpec
    cells: Mapping[str, ComparedCell]


@dataclass(frozen=True)
class ComparedClaim:
    """A claim with our seed-paired difference, signed so that positive favours the claim.

    Attributes:
        differences: seed -> difference; empty if a row is missing.
        smallest: least difference that counts as the claimed size; None if only the order counts.
        recorded: verdict on the numbers of the proxy reference themselves; None without one.
    """

    claim: Claim
    verdict: ClaimVerdict
    interval: Interval | None
    differences: Mapping[int, float]
    smallest: float | None
    reason: str = ""
    recorded: ClaimVerdict | None = None


@dataclass(frozen=True)
class Comparison:
    """A compared table.

    Attributes:
        provenance: how the proxy reference was recorded; None if the verdicts use none.
        reasons: column key -> reason of its tolerance and of its stated spread.
        unfinished: why the values claim nothing (smoke scale, a run cut short), empty otherwise.
        pairing: whether all seeds were recorded and are compared with their own stored values:
            "repeated" if they must be equal, "paired" if not; empty for means of seeds.
        notes: sentences about the table as a whole, shown beneath it.
    """

    table: TableInfo
    scale: Scale
    columns: tuple[ColumnSpec, ...]
    rows: tuple[ComparedRow, ...]
    claims: tuple[ComparedClaim, ...]
    provenance: Provenance | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    unfinished: str = ""
    pairing: Pairing = ""
    notes: tuple[str, ...] = ()

    @property
    def cells(self) -> list[ComparedCell]:
        """All cells, row by row."""
        return [cell for row in self.rows for cell in row.cells.values()]

    def counts(self) -> Counter[Verdict]:
        """Return how many cells have each verdict."""
        return Counter(cell.verdict for cell in self.cells if cell.verdict is not None)

    def firm_matches(self) -> int:
        """Return how many of the matches are firm."""
        return sum(cell.firm for cell in self.cells)

    def claim_counts(self) -> Counter[ClaimVerdict]:
        """Return how many claims have each verdict."""
        return Counter(claim.verdict for claim in self.claims)

    def misses(self) -> list[tuple[str, str]]:
        """Return (row key, column key) of every miss."""
        return [
            (compared.row.key, column)
            for compared in self.rows
            for column, cell in compared.cells.items()
            if cell.verdict is Verdict.MISS
        ]

    @property
    def exit_status(self) -> int:
        """Exit status of the command: 1 if a cell missed, else 0."""
        return 1 if self.misses() else 0

    @property
    def seeds(self) -> list[int]:
        """All seeds that any cell was measured with."""
        return sorted({seed for cell in self.cells for seed in (*cell.ours, *cell.collapsed)})
