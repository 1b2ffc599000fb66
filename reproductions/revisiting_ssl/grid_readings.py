"""Grids of accuracies read from a comparison, from stored tables and from recorded metrics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from retable.reproduce import FinishedRuns
from retable.reproduce.table import training_name
from retable.tables import Comparison, load_reference
from retable.tables.reference import ColumnSpec, Reference, Value
from revisiting_ssl.analysis.agreement import GridStatistics, grid_statistics
from revisiting_ssl.analysis.grids import Cell, Grid, cell_of, restricted

TASKS = {
    "rotation": "Rotation",
    "exemplar": "Exemplar",
    "relpatchloc": "Rel. Patch Loc.",
    "jigsaw": "Jigsaw",
}
"""Labels of the pretext tasks, in the paper's order."""

TIMES = "×"  # noqa: RUF001 (typography, not arithmetic)

PRETEXT = "monitor.pretext_accuracy"
"""Metric of the accuracy in the pretext task on held-out images, a share in [0, 1]."""


class Share(NamedTuple):
    """Name and label of an evaluation with a share of the labels."""

    evaluation: str
    label: str


SHARES = {
    "imagenet": Share("imagenet_10", "10 % of the labels"),
    "places": Share("places_5", "5 % of the labels"),
}
"""Evaluation with all labels -> the same evaluation with a share of them."""

_PRINTED = {"table2": "imagenet_10", "table3": "places", "table4": "places_5"}


def printed_evaluation(comparison: Comparison) -> str | None:
    """Return the name of the evaluation that a table prints, None for other tables."""
    return _PRINTED.get(comparison.table.id)


def columns_of(comparison: Comparison) -> dict[ColumnSpec, Cell]:
    """Return the columns of a task at a width, with their cells."""
    return {
        column: cell_of(column.key)
        for column in comparison.columns
        if column.key.rpartition("_")[0] in TASKS
    }


def labels_of(comparison: Comparison) -> dict[str, str]:
    """Return row key -> label."""
    return {row.row.key: row.row.label for row in comparison.rows}


def our_grid(comparison: Comparison) -> Grid:
    """Return the means over the seeds of the cells that have run and are finite."""
    return {
        cell: {
            row.row.key: mean
            for row in comparison.rows
            if (mean := row.cells[column.key].mean) is not None and math.isfinite(mean)
        }
        for column, cell in columns_of(comparison).items()
    }


def grids_by_seed(comparison: Comparison) -> dict[int, Grid]:
    """Return seed -> grid of its finite numbers."""
    return {
        seed: {
            cell: {
                row.row.key: row.cells[column.key].ours[seed]
                for row in comparison.rows
                if math.isfinite(row.cells[column.key].ours.get(seed, math.nan))
            }
            for column, cell in columns_of(comparison).items()
        }
        for seed in comparison.seeds
    }


def paper_grid(comparison: Comparison) -> Grid:
    """Return the paper's numbers."""
    return {
        cell: {
            row.row.key: value.value
            for row in comparison.rows
            if isinstance(value := row.cells[column.key].paper, Value)
        }
        for column, cell in columns_of(comparison).items()
    }


def printed_grid(evaluation: str) -> Grid:
    """Return the paper's numbers of an evaluation; empty if no table prints it."""
    for table, printed in _PRINTED.items():
        if printed == evaluation:
            return reference_grid(load_reference(Path(__file__).with_name(f"{table}.toml")))
    return {}


def reference_grid(reference: Reference) -> Grid:
    """Return the stored numbers of a table."""
    return {
        cell_of(column.key): {
            row.key: value.value
            for row in reference.rows
            if (value := reference.value(row.key, column.key)) is not None
        }
        for column in reference.columns
    }


def metric_grid(
    comparison: Comparison, histories: FinishedRuns, metric: str, factor: float = 1.0
) -> Grid:
    """Return a metric of the grid's runs, the mean over the seeds times ``factor``."""
    grid: dict[Cell, dict[str, float]] = {}
    for column, cell in columns_of(comparison).items():
        grid[cell] = {}
        for row in comparison.rows:
            by_seed = histories.get(training_name(row.row.key, column.key), {})
            found = [h.metrics[metric] for h in by_seed.values() if metric in h.metrics]
            if found and all(map(math.isfinite, found)):
                grid[cell][row.row.key] = factor * math.fsum(found) / len(found)
    return grid


PAPER, PART, OURS = "paper", "paper, the cells that were run", "ours"


def all_statistics(comparison: Comparison, histories: FinishedRuns) -> dict[str, GridStatistics]:
    """Return the statistics of the paper's grid, of its cells that were run, and of ours.

    The second is left out if every cell was run, the last two if none was.
    """
    ours, paper = our_grid(comparison), paper_grid(comparison)
    part = restricted(paper, ours)
    found = {PAPER: grid_statistics(paper, _printed_shares(comparison, paper))}
    if any(ours.values()):
        if part != paper:
            found[PART] = grid_statistics(part, _printed_shares(comparison, part))
        found[OURS] = grid_statistics(ours, _measured_shares(comparison, histories))
    return found


def _printed_shares(comparison: Comparison, grid: Grid) -> dict[str, tuple[Grid, Grid]]:
    """Pair the table's numbers with those of the paper's table with all labels."""
    return {
        share.label: (grid, printed_grid(every))
        for every, share in SHARES.items()
        if share.evaluation == printed_evaluation(comparison)
    }


def _measured_shares(
    comparison: Comparison, histories: FinishedRuns
) -> dict[str, tuple[Grid, Grid]]:
    """Pair the runs' accuracies with a share of the labels and with all."""
    return {
        share.label: (
            metric_grid(comparison, histories, f"{share.evaluation}.top1"),
            metric_grid(comparison, histories, f"{every}.top1"),
        )
        for every, share in SHARES.items()
    }


def title_of(name: str, comparison: Comparison) -> str:
    """Return the title of a panel: the paper, or ours with scale and number of seeds."""
    if name != OURS:
        return name.capitalize()
    seeds = len(comparison.seeds)
    return f"Ours, {comparison.scale} scale, {seeds} seed{'' if seeds == 1 else 's'}"
