"""What came of a table's runs: of every cell a number, a collapse or a failure for each seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from retable.reproduce.collapse import ENDINGS, collapse_reason
from retable.reproduce.finished import collect, ending, failure, history
from retable.reproduce.plan import Run
from retable.reproduce.setting import Setting
from retable.reproduce.table import Derive, RunMetrics, Table, TableRow
from retable.tables import Collapsed, Comparison, Measured
from retable.tables.reference import Collapse

Reasons = Mapping[str, Mapping[int, str]]
"""Training -> seed -> why."""


@dataclass(frozen=True)
class Outcomes:
    """What came of the requested rows.

    Attributes:
        measured: row -> column -> seed -> number.
        collapsed: row -> column -> seed -> why the cell says ``collapse`` instead of a number.
        collapses: the trainings behind that.
        stopped: the trainings that ended early, of whatever kind.
        failed: row -> column -> what of that the cell cannot do without and is no collapse to it.
    """

    measured: Measured
    collapsed: Collapsed
    collapses: Reasons
    stopped: Reasons
    failed: Mapping[str, Mapping[str, str]]


def gather_figures(runs: list[Run], setting: Setting, derive: Derive | None = None) -> RunMetrics:
    """Return training -> seed -> figure name -> value of all runs that are complete."""
    figures: dict[str, dict[int, dict[str, float]]] = {}
    for run in runs:
        found = collect(run, setting)
        if found and derive is not None:
            derived = derive(run.recipe, history(run, setting))
            found |= {f"history.{name}": value for name, value in derived.items()}
        for name in run.rows:
            if found:
                figures.setdefault(name, {})[run.seed] = found
    return figures


def measure(table: Table, figures: RunMetrics) -> Measured:
    """Return row -> column -> seed -> value, as the table's columns read the figures."""
    measured: dict[str, dict[str, dict[int, float]]] = {}
    for row in table.rows:
        seeds = {seed for name in table.trainings(row) for seed in figures.get(name, {})}
        for key, column in table.columns.items():
            values = {seed: column.value(row, seed, figures) for seed in sorted(seeds)}
            present = {seed: value for seed, value in values.items() if value is not None}
            if present:
                measured.setdefault(row, {})[key] = present
    return measured


def gather_outcomes(
    table: Table,
    rows: Mapping[str, TableRow],
    runs: list[Run],
    figures: RunMetrics,
    scale: str,
    setting: Setting,
) -> Outcomes:
    """Say of every cell what its runs gave.

    Args:
        table: the table.
        rows: its trainings that were requested.
        runs: what was run for them.
        figures: what `gather_figures` found.
        scale: of the runs.
        setting: where they lie.
    """
    stopped = _stopped(runs, setting)
    requested = [row for row in table.rows if rows.keys() & table.trainings(row).keys()]
    collapses = _collapses(table, runs, figures, scale, setting)
    collapsed = _collapsed_cells(table, requested, collapses)
    measured = {
        row: {
            key: {seed: value for seed, value in numbers.items() if seed not in gone.get(key, {})}
            for key, numbers in cells.items()
        }
        for row, cells in measure(table, figures).items()
        for gone in [collapsed.get(row, {})]
    }
    failed = _failed_cells(table, requested, stopped, collapsed)
    return Outcomes(measured, collapsed, collapses, stopped, failed)


def _stopped(runs: list[Run], setting: Setting) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for run in runs:
        if why := failure(run, setting):
            for name in run.rows:
                found.setdefault(name, {})[run.seed] = why
    return found


def _collapses(
    table: Table, runs: list[Run], figures: RunMetrics, scale: str, setting: Setting
) -> dict[str, dict[int, str]]:
    """Judge the runs of the rows that the table's criterion names."""
    criterion = table.collapse
    if criterion is None:
        return {}
    judged = set(chain.from_iterable(table.trainings(row) for row in criterion.rows))
    found: dict[str, dict[int, str]] = {}
    for run in runs:
        for name in judged.intersection(run.rows):
            why = failure(run, setting) if ending(run, setting) in ENDINGS else None
            if own := figures.get(name, {}).get(run.seed):
                why = collapse_reason(own, probe=criterion.probe, chance=criterion.chance[scale])
            if why:
                found.setdefault(name, {})[run.seed] = why
    return found


def _collapsed_cells(
    table: Table, requested: list[str], trainings: Reasons
) -> dict[str, dict[str, dict[int, str]]]:
    """Return row -> column -> seed -> why, of the cells that the table's criterion names."""
    criterion = table.collapse
    found: dict[str, dict[str, dict[int, str]]] = {}
    if criterion is None:
        return found
    for row in requested:
        for key in criterion.columns if row in criterion.rows else ():
            for name in dict.fromkeys(table.columns[key].reads(row)):
                for seed, why in trainings.get(name, {}).items():
                    cell = found.setdefault(row, {}).setdefault(key, {})
                    cell.setdefault(seed, _of(name, row, why))
    return found


def _failed_cells(
    table: Table, requested: list[str], stopped: Reasons, collapsed: Collapsed
) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for row in requested:
        for key, column in table.columns.items():
            gone = collapsed.get(row, {}).get(key, {})
            said = [
                _of(name, row, f"seed {seed}: training stopped, {why}")
                for name in dict.fromkeys(column.reads(row))
                for seed, why in stopped.get(name, {}).items()
                if seed not in gone
            ]
            if said:
                found.setdefault(row, {})[key] = "; ".join(said)
    return found


def _of(name: str, row: str, why: str) -> str:
    """Name the training where it is not simply the row's."""
    return why if name == row else f"{name}, {why}"


def failed_unexpectedly(table: Table, outcomes: Outcomes, comparison: Comparison) -> bool:
    """Say whether a training ended early that no table expects to collapse."""
    expected = {
        (name, seed)
        for compared in comparison.rows
        for key, cell in compared.cells.items()
        if isinstance(cell.paper, Collapse) or isinstance(cell.reference, Collapse)
        for seed in cell.collapsed
        for name in table.columns[key].reads(compared.row.key)
    }
    ended = {(name, seed) for name, seeds in outcomes.stopped.items() for seed in seeds}
    return bool(ended - expected)
