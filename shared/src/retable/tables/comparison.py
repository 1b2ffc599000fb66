"""What a comparison is: every cell and claim with its numbers, interval and verdict, as data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from retable.tables.reference import Claim, Collapse, ColumnSpec, Provenance, RowSpec, Value
from retable.tables.statistics import (
    Interval,
    mean,
    spread_of,
)
from retable.tables.verdict import ClaimVerdict, Verdict

Scale = Literal["paper", "proxy", "smoke"]
Measured = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Row key -> column key -> seed -> number."""
Collapsed = Mapping[str, Mapping[str, Mapping[int, str]]]
"""Row key -> column key -> seed -> why the run counts as collapsed."""


def all_finite(values: Mapping[int, float]) -> bool:
    """Whether no seed gave NaN or infinity."""
    return all(map(math.isfinite, values.values()))


@dataclass(frozen=True)
class ComparedCell:
    """One cell of the printed table.

    Attributes:
        paper: the paper's number, or that it expects a collapse; None where it prints nothing.
        reference: what ours is compared with, None where there is nothing.
        ours: seed -> our number, empty if it was not measured.
        tolerance: how far our mean may be off, None where nothing is judged.
        interval: 95 % interval of our mean minus the reference, None where a spread is missing.
        verdict: None where there is nothing to judge, `reason` says why.
        seeds_needed: how many seeds would decide an inconclusive cell, None if 100 would not.
        collapsed: seed -> why its run counts as collapsed; it has no number in ``ours``.
    """

    paper: Value | Collapse | None = None
    reference: Value | Collapse | None = None
    ours: Mapping[int, float] = field(default_factory=dict)
    tolerance: float | None = None
    interval: Interval | None = None
    verdict: Verdict | None = None
    reason: str = ""
    seeds_needed: int | None = None
    collapsed: Mapping[int, str] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Our mean over the seeds that have a number, NaN if any of them is not finite."""
        if not self.ours:
            return None
        return mean(list(self.ours.values())) if all_finite(self.ours) else math.nan

    @property
    def std(self) -> float | None:
        """Our sample std over seeds, None for fewer than two."""
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
        differences: seed -> difference; empty where a row is missing.
        smallest: the least difference that counts as the claimed size, None if only the order was
            tested.
    """

    claim: Claim
    verdict: ClaimVerdict
    interval: Interval | None
    differences: Mapping[int, float]
    smallest: float | None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """A whole table, compared.

    Attributes:
        provenance: how the proxy reference was recorded, None where none is compared with.
        reasons: column key -> why its tolerance, and what stands in for missing spreads.
        unfinished: why the numbers claim nothing (smoke scale, a run cut short), empty if they do.
    """

    id: str
    title: str
    paper: str
    source: str
    dataset: str
    notes: str
    scale: Scale
    columns: tuple[ColumnSpec, ...]
    rows: tuple[ComparedRow, ...]
    claims: tuple[ComparedClaim, ...]
    provenance: Provenance | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    unfinished: str = ""

    def counts(self) -> Counter[Verdict]:
        """Return how many cells have each verdict."""
        cells = (cell for row in self.rows for cell in row.cells.values())
        return Counter(cell.verdict for cell in cells if cell.verdict is not None)

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
        """Return what the command ends with: 1 if a cell missed, else 0."""
        return 1 if self.misses() else 0

    @property
    def seeds(self) -> list[int]:
        """All seeds that any cell was measured with."""
        cells = (cell for row in self.rows for cell in row.cells.values())
        return sorted({seed for cell in cells for seed in (*cell.ours, *cell.collapsed)})
