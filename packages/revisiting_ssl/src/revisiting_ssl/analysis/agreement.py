"""Agreement of encoder rankings between tasks, widths, seeds and shares of labels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

from revisiting_ssl.analysis.correlations import Correlation, kendall_tau, mean_correlation, ranks
from revisiting_ssl.analysis.grids import Cell, Grid, Step, best_of, tasks_of, width_steps


def task_agreement(grid: Grid) -> dict[tuple[str, str], Correlation]:
    """Return Kendall's tau-b between the encoder rankings of every two tasks, symmetric.

    Two different tasks: the mean over the widths that both have. A task and itself: the mean over
    every two of its widths, the value to expect if the task made no difference.
    """
    tasks = tasks_of(grid)
    widths = {task: [c.widening for c in grid if c.task == task and grid[c]] for task in tasks}
    found: dict[tuple[str, str], Correlation] = {}
    for task in tasks:
        own = combinations(widths[task], 2)
        found[task, task] = mean_correlation(
            (kendall_tau(grid[Cell(task, a)], grid[Cell(task, b)]) for a, b in own),
            "one width",
        )
    for one, other in combinations(tasks, 2):
        common = [width for width in widths[one] if width in widths[other]]
        found[one, other] = found[other, one] = mean_correlation(
            (kendall_tau(grid[Cell(one, w)], grid[Cell(other, w)]) for w in common),
            "no width in common",
        )
    return found


def mean_agreement(agreement: Mapping[tuple[str, str], Correlation], *, same: bool) -> Correlation:
    """Return the mean of `task_agreement` over pairs of different tasks, or of the ``same``."""
    chosen = (
        found
        for (one, other), found in agreement.items()
        if (one == other if same else one < other)
    )
    return mean_correlation(chosen, "no two tasks")


def cell_agreement(first: Grid, second: Grid) -> dict[Cell, Correlation]:
    """Return Kendall's tau-b between two grids' encoder rankings in every column that both have."""
    return {
        cell: kendall_tau(found, second[cell])
        for cell, found in first.items()
        if found and second.get(cell)
    }


def seed_agreement(grids: Mapping[int, Grid]) -> Correlation:
    """Return the mean Kendall's tau-b between the rankings of a column by every two seeds.

    It bounds the agreement of two tasks that can be expected under the noise of training.
    """
    found = (
        correlation
        for one, other in combinations(grids.values(), 2)
        for correlation in cell_agreement(one, other).values()
    )
    return mean_correlation(found, "one seed")


class GridStatistics(NamedTuple):
    """Statistics of one grid.

    Attributes:
        grid: the grid.
        ranks: column -> encoder -> rank, 1 the best.
        best: task -> its best encoders, their width and their accuracy.
        tasks: agreement of the tasks' rankings (`task_agreement`).
        shares: name of a share of the labels -> column -> tau-b between the rankings with that
            share and with all labels.
        steps: changes between adjacent widths.
    """

    grid: Grid
    ranks: Mapping[Cell, Mapping[str, float]]
    best: Mapping[str, tuple[list[str], int, float]]
    tasks: Mapping[tuple[str, str], Correlation]
    shares: Mapping[str, Mapping[Cell, Correlation]]
    steps: list[Step]


def grid_statistics(grid: Grid, shares: Mapping[str, tuple[Grid, Grid]]) -> GridStatistics:
    """Compute the statistics of a grid.

    ``shares`` maps the name of a share of the labels to the accuracies with that share and with
    all labels.
    """
    agreements = {name: cell_agreement(few, every) for name, (few, every) in shares.items()}
    return GridStatistics(
        grid,
        {cell: ranks(found) for cell, found in grid.items() if found},
        {task: best_of(grid, task) for task in tasks_of(grid)},
        task_agreement(grid),
        {name: found for name, found in agreements.items() if found},
        width_steps(grid),
    )
