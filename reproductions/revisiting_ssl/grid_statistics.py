"""What a grid says beyond its numbers, the paper's and ours by the same functions.

Does the best encoder depend on the pretext task? Is the ranking the same with few labels? Does
widening help?
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grid_readings import SHARES, figure_grid, our_grid, paper_grid, printed_grid, prints
from rankings import (
    Cell,
    Correlation,
    Grid,
    Step,
    best_of,
    cell_agreement,
    ranks,
    restricted,
    task_agreement,
    tasks_of,
    width_steps,
)

from retable.reproduce import FinishedRuns
from retable.tables import Comparison

PAPER, PART, OURS = "paper", "paper, what we have run of it", "ours"


@dataclass(frozen=True)
class GridStatistics:
    """What one grid says.

    Attributes:
        grid: column -> encoder -> accuracy in percent.
        ranks: column -> encoder -> rank, 1 the best.
        best: task -> its best encoders, at which widening, and their accuracy.
        tasks: Kendall's tau-b between the encoder rankings of two tasks (`task_agreement`).
        shares: what few labels are called -> column -> tau-b between the rankings with few labels
            and with all.
        steps: what each widening changes.
    """

    grid: Grid
    ranks: Mapping[Cell, Mapping[str, float]]
    best: Mapping[str, tuple[list[str], int, float]]
    tasks: Mapping[tuple[str, str], Correlation]
    shares: Mapping[str, Mapping[Cell, Correlation]]
    steps: list[Step]


def statistics_of(grid: Grid, shares: Mapping[str, tuple[Grid, Grid]]) -> GridStatistics:
    """Return what a grid says.

    Args:
        grid: column -> encoder -> accuracy in percent.
        shares: what few labels are called -> accuracies with few and with all.
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


def all_statistics(comparison: Comparison, histories: FinishedRuns) -> dict[str, GridStatistics]:
    """Return the statistics of the paper's grid, of the part of it that we have run, and of ours.

    The part only where we have not run everything.
    """
    ours, paper = our_grid(comparison), paper_grid(comparison)
    part = restricted(paper, ours)
    found = {PAPER: statistics_of(paper, _printed_shares(comparison, paper))}
    if any(ours.values()):
        if part != paper:
            found[PART] = statistics_of(part, _printed_shares(comparison, part))
        found[OURS] = statistics_of(ours, _measured_shares(comparison, histories))
    return found


def _printed_shares(comparison: Comparison, grid: Grid) -> dict[str, tuple[Grid, Grid]]:
    """Return the table's own numbers beside those of the paper's table with all labels."""
    return {
        share.name: (grid, printed_grid(every))
        for every, share in SHARES.items()
        if share.evaluation == prints(comparison)
    }


def _measured_shares(
    comparison: Comparison, histories: FinishedRuns
) -> dict[str, tuple[Grid, Grid]]:
    """Return what the runs have of both evaluations."""
    return {
        share.name: (
            figure_grid(comparison, histories, f"{share.evaluation}.top1"),
            figure_grid(comparison, histories, f"{every}.top1"),
        )
        for every, share in SHARES.items()
    }
