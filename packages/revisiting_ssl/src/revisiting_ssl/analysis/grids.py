"""Grids of accuracies: pretext task and width by encoder, best encoders, reversals, width steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import combinations, pairwise
from typing import NamedTuple

from retable.errors import UserError


class Cell(NamedTuple):
    """A column of a grid: pretext task and widening factor."""

    task: str
    widening: int


Accuracies = Mapping[str, float]
"""Encoder -> accuracy in percent."""

Grid = Mapping[Cell, Accuracies]
"""Column -> encoder -> accuracy in percent; encoders without a number are left out."""


class Step(NamedTuple):
    """Change of an encoder's accuracy from one width of a task's columns to the next wider one."""

    encoder: str
    task: str
    narrow: int
    wide: int
    gain: float


def cell_of(column: str) -> Cell:
    """Parse the key of a column.

    >>> cell_of("rotation_16x")
    Cell(task='rotation', widening=16)
    """
    task, _, widening = column.rpartition("_")
    if not task or not widening.removesuffix("x").isdecimal():
        raise UserError(f"`column` must be like rotation_16x, got {column!r}. Rename it.")
    return Cell(task, int(widening.removesuffix("x")))


def tasks_of(grid: Grid) -> list[str]:
    """Return the tasks that have a number, in the grid's order."""
    return list(dict.fromkeys(cell.task for cell, found in grid.items() if found))


def encoders_of(grid: Grid) -> list[str]:
    """Return the encoders that have a number, in the grid's order."""
    return list(dict.fromkeys(name for found in grid.values() for name in found))


def restricted(grid: Grid, to: Grid) -> dict[Cell, dict[str, float]]:
    """Return the numbers of a grid where the grid ``to`` has numbers too."""
    return {
        cell: {name: value for name, value in found.items() if name in to.get(cell, {})}
        for cell, found in grid.items()
    }


def best_of(grid: Grid, task: str) -> tuple[list[str], int, float]:
    """Return the best encoders of a task (several if equal), their width and their accuracy.

    If several widths reach the same accuracy, the narrowest is returned.

    >>> grid = {Cell("jigsaw", 4): {"v1": 39.4}, Cell("jigsaw", 8): {"v1": 42.9, "v2": 39.2}}
    >>> best_of(grid, "jigsaw")
    (['v1'], 8, 42.9)
    """
    own = {cell.widening: found for cell, found in grid.items() if cell.task == task and found}
    if not own:
        raise UserError(
            f"`task` must be one of {', '.join(tasks_of(grid)) or 'no task'}, got {task!r}. Choose "
            "a task that has a number."
        )
    top = max(value for found in own.values() for value in found.values())
    widening = min(width for width, found in own.items() if top in found.values())
    return [name for name, value in own[widening].items() if value == top], widening, top


def width_steps(grid: Grid) -> list[Step]:
    """Return the steps between adjacent widths, task by task, encoder by encoder."""
    steps = []
    for task in tasks_of(grid):
        widths = [cell.widening for cell in grid if cell.task == task]
        for encoder in dict.fromkeys(name for width in widths for name in grid[Cell(task, width)]):
            own = {width: grid[Cell(task, width)].get(encoder) for width in widths}
            for narrow, wide in pairwise(sorted(own)):
                before, after = own[narrow], own[wide]
                if before is not None and after is not None:
                    steps.append(Step(encoder, task, narrow, wide, after - before))
    return steps


def count_improving(steps: Iterable[Step]) -> int:
    """Count the steps that raise the accuracy; equal accuracies do not count."""
    return sum(step.gain > 0 for step in steps)


def leads(grid: Grid, one: str, other: str) -> dict[Cell, float]:
    """Return the accuracy of ``one`` minus that of ``other`` in every column that has both."""
    return {
        cell: found[one] - found[other]
        for cell, found in grid.items()
        if one in found and other in found
    }


def mean_leads(grid: Grid, one: str, other: str) -> dict[str, float]:
    """Return task -> mean of `leads` over the widths."""
    by_task: dict[str, list[float]] = {}
    for cell, lead in leads(grid, one, other).items():
        by_task.setdefault(cell.task, []).append(lead)
    return {task: math.fsum(found) / len(found) for task, found in by_task.items()}


def reversals(grid: Grid) -> dict[tuple[str, str], dict[str, float]]:
    """Return the pairs of encoders whose order depends on the task, with their `mean_leads`.

    >>> rotation, jigsaw = Cell("rotation", 8), Cell("jigsaw", 8)
    >>> reversals({rotation: {"rev": 34.0, "v1": 26.0}, jigsaw: {"rev": 22.0, "v1": 28.0}})
    {('rev', 'v1'): {'rotation': 8.0, 'jigsaw': -6.0}}
    """
    found = {pair: mean_leads(grid, *pair) for pair in combinations(encoders_of(grid), 2)}
    return {
        pair: by_task
        for pair, by_task in found.items()
        if min(by_task.values(), default=0.0) < 0 < max(by_task.values(), default=0.0)
    }
