"""A grid's numbers as they are read from a comparison and from what its runs have recorded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from rankings import Cell, Grid, cell_of

from retable.reproduce import FinishedRuns
from retable.reproduce.table import training_name
from retable.tables import Comparison, load_reference
from retable.tables.reference import ColumnSpec, Reference, Value

TASKS = {
    "rotation": "Rotation",
    "exemplar": "Exemplar",
    "relpatchloc": "Rel. Patch Loc.",
    "jigsaw": "Jigsaw",
}
"""What the pretext tasks are called, in the paper's order."""

TIMES = "×"  # noqa: RUF001 (typography, not arithmetic)

PRETEXT = "monitor.pretext_accuracy"
"""The figure that says how well a task itself is solved on held-out images, as a share."""


class Share(NamedTuple):
    """An evaluation with few labels, and what to call it."""

    evaluation: str
    name: str


SHARES = {
    "imagenet": Share("imagenet_10", "10 % of the labels"),
    "places": Share("places_5", "5 % of the labels"),
}
"""Evaluation with all labels -> the same with few."""

_PRINTED = {"table2": "imagenet_10", "table3": "places", "table4": "places_5"}


def prints(comparison: Comparison) -> str | None:
    """Return which evaluation a table prints."""
    return _PRINTED.get(comparison.id)


def columns_of(comparison: Comparison) -> dict[ColumnSpec, Cell]:
    """Return the columns that are a task at a width."""
    return {
        column: cell_of(column.key)
        for column in comparison.columns
        if column.key.rpartition("_")[0] in TASKS
    }


def labels_of(comparison: Comparison) -> dict[str, str]:
    """Return what the rows are called, by their keys."""
    return {row.row.key: row.row.label for row in comparison.rows}


def our_grid(comparison: Comparison) -> Grid:
    """Return our means over the seeds, of what has run."""
    return {
        cell: {
            row.row.key: mean
            for row in comparison.rows
            if (mean := row.cells[column.key].mean) is not None and math.isfinite(mean)
        }
        for column, cell in columns_of(comparison).items()
    }


def grids_by_seed(comparison: Comparison) -> dict[int, Grid]:
    """Return seed -> its numbers."""
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
    """Return the paper's numbers of an evaluation from the table that prints it; empty without."""
    for table, printed in _PRINTED.items():
        if printed == evaluation:
            return reference_grid(load_reference(Path(__file__).with_name(f"{table}.toml")))
    return {}


def reference_grid(reference: Reference) -> Grid:
    """Return the numbers of a table as they are stored."""
    return {
        cell_of(column.key): {
            row.key: value.value
            for row in reference.rows
            if (value := reference.value(row.key, column.key)) is not None
        }
        for column in reference.columns
    }


def figure_grid(
    comparison: Comparison, histories: FinishedRuns, figure: str, factor: float = 1.0
) -> Grid:
    """Return a figure of the grid's runs, the mean over the seeds, times a factor."""
    grid: dict[Cell, dict[str, float]] = {}
    for column, cell in columns_of(comparison).items():
        grid[cell] = {}
        for row in comparison.rows:
            by_seed = histories.get(training_name(row.row.key, column.key), {})
            found = [h.metrics[figure] for h in by_seed.values() if figure in h.metrics]
            if found and all(map(math.isfinite, found)):
                grid[cell][row.row.key] = factor * math.fsum(found) / len(found)
    return grid
