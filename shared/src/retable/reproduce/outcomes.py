"""Outcomes of a table's cells: for each seed a number, a collapse or a failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from retable.reproduce.run import FinishedRuns
from retable.reproduce.table import Table, TableRow
from retable.tables import Comparison
from retable.tables.reference import Collapse


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of the requested rows, each as row -> column -> outcome.

    Attributes:
        measured: Numbers by seed.
        collapsed: Reasons by seed why the cell says ``collapse`` instead of a number.
        failed: Failures of trainings that the cell is read from, where they are no collapse to it.
    """

    measured: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    collapsed: dict[str, dict[str, dict[int, str]]] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)


def measure(table: Table, runs: FinishedRuns) -> dict[str, dict[str, dict[int, float]]]:
    """Return row -> column -> seed -> value, as the table's columns read the metrics."""
    measured: dict[str, dict[str, dict[int, float]]] = {}
    for row in table.rows:
        seeds = {seed for name in table.trainings(row) for seed in runs.get(name, {})}
        for key, column in table.columns.items():
            values = {seed: column.value(row, seed, runs) for seed in sorted(seeds)}
            present = {seed: value for seed, value in values.items() if value is not None}
            if present:
                measured.setdefault(row, {})[key] = present
    return measured


def gather_outcomes(
    table: Table, rows: Mapping[str, TableRow], runs: FinishedRuns, scale: str
) -> Outcomes:
    """Return the outcome of every requested cell.

    Args:
        table: The table.
        rows: The requested trainings.
        runs: Their finished runs.
        scale: Scale of the runs.
    """
    outcomes = Outcomes(measured=measure(table, runs))
    for row in table.rows:
        if rows.keys().isdisjoint(table.trainings(row)):
            continue
        for key, column in table.columns.items():
            names = dict.fromkeys(column.reads(row))
            read = [(name, run) for name in names for run in runs.get(name, {}).values()]
            collapses: dict[int, str] = {}
            for name, run in read if _may_collapse(table, row, key) else ():
                if reason := table.collapse_reason(name, run, scale):
                    collapses.setdefault(run.seed, _of(name, row, reason))
            failures = [
                _of(name, row, f"seed {run.seed}: training stopped, {run.failure}")
                for name, run in read
                if run.failure and run.seed not in collapses
            ]
            if collapses:
                outcomes.collapsed.setdefault(row, {})[key] = collapses
                numbers = outcomes.measured.get(row, {}).get(key, {})
                for seed in collapses:
                    numbers.pop(seed, None)
            if failures:
                outcomes.failed.setdefault(row, {})[key] = "; ".join(failures)
    return outcomes


def _may_collapse(table: Table, row: str, column: str) -> bool:
    criterion = table.collapse
    return criterion is not None and row in criterion.rows and column in criterion.columns


def _of(name: str, row: str, reason: str) -> str:
    """Name the training if it is not the row itself."""
    return reason if name == row else f"{name}, {reason}"


def failed_unexpectedly(table: Table, runs: FinishedRuns, comparison: Comparison) -> bool:
    """Say whether a training failed that no table expects to collapse."""
    expected = {
        (name, seed)
        for compared in comparison.rows
        for key, cell in compared.cells.items()
        if isinstance(cell.paper, Collapse) or isinstance(cell.reference, Collapse)
        for seed in cell.collapsed
        for name in table.columns[key].reads(compared.row.key)
    }
    failed = {
        (name, seed) for name, seeds in runs.items() for seed, run in seeds.items() if run.failure
    }
    return bool(failed - expected)
