"""Rankings of encoders over a grid of tasks and widths: where they agree, what widening does.

Pure functions on plain mappings, for our accuracies and for the paper's alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import combinations, pairwise
from typing import NamedTuple

FEWEST = 3
"""Two encoders are ranked alike or the other way round: no correlation says more of them."""


class Cell(NamedTuple):
    """A column of the grid."""

    task: str
    widening: int


Accuracies = Mapping[str, float]
"""Encoder -> accuracy in percent."""

Grid = Mapping[Cell, Accuracies]
"""Column -> encoder -> accuracy in percent; only what has a number."""


class Correlation(NamedTuple):
    """A rank correlation, or why there is none.

    Attributes:
        value: in [-1, 1]; the mean over ``rankings`` pairs of rankings. None: see ``reason``.
        points: how many points each ranking orders; the least of them.
        rankings: how many pairs of rankings the mean is over.
        reason: why there is no value, empty if there is one.
    """

    value: float | None
    points: int
    rankings: int = 1
    reason: str = ""


class Step(NamedTuple):
    """What a widening to the next width of the grid changes, for one encoder and task."""

    encoder: str
    task: str
    narrow: int
    wide: int
    gain: float


def cell_of(column: str) -> Cell:
    """Read a column's key.

    >>> cell_of("rotation_16x")
    Cell(task='rotation', widening=16)
    """
    task, _, widening = column.rpartition("_")
    return Cell(task, int(widening.removesuffix("x")))


def tasks_of(grid: Grid) -> list[str]:
    """Return the tasks that have a number, in the grid's order."""
    return list(dict.fromkeys(cell.task for cell, found in grid.items() if found))


def encoders_of(grid: Grid) -> list[str]:
    """Return the encoders that have a number, in the grid's order."""
    return list(dict.fromkeys(name for found in grid.values() for name in found))


def restricted(grid: Grid, to: Grid) -> dict[Cell, dict[str, float]]:
    """Return the numbers of a grid in the places where another has numbers too."""
    return {
        cell: {name: value for name, value in found.items() if name in to.get(cell, {})}
        for cell, found in grid.items()
    }


def ranks(accuracies: Accuracies) -> dict[str, float]:
    """Rank encoders from 1, the best; equal accuracies share the mean of their ranks.

    >>> ranks({"revnet": 44.5, "v1": 44.5, "vgg": 33.3})
    {'revnet': 1.5, 'v1': 1.5, 'vgg': 3.0}
    """
    values = list(accuracies.values())
    return {
        name: sum(other > own for other in values) + (values.count(own) + 1) / 2
        for name, own in accuracies.items()
    }


def best_of(grid: Grid, task: str) -> tuple[list[str], int, float]:
    """Return a task's best encoders (several if equal), at which widening, and their accuracy.

    Of widths that reach the same, the narrowest.

    >>> grid = {Cell("jigsaw", 4): {"v1": 39.4}, Cell("jigsaw", 8): {"v1": 42.9, "v2": 39.2}}
    >>> best_of(grid, "jigsaw")
    (['v1'], 8, 42.9)
    """
    own = {cell.widening: found for cell, found in grid.items() if cell.task == task and found}
    top = max(value for found in own.values() for value in found.values())
    widening = min(width for width, found in own.items() if top in found.values())
    return [name for name, value in own[widening].items() if value == top], widening, top


def rank_agreement(first: Accuracies, second: Accuracies) -> Correlation:
    """Return Kendall's tau-b between two rankings of the encoders that both hold.

    1: the same order; -1: the reverse; encoders that are equal in one of them count for neither.

    >>> one = {"revnet": 50.0, "v1": 40.0, "vgg": 20.0}
    >>> round(rank_agreement(one, {"revnet": 40.0, "v1": 50.0, "vgg": 20.0}).value, 3)
    0.333
    >>> rank_agreement({"revnet": 50.0}, {"revnet": 40.0, "v1": 30.0}).reason
    '1 encoder in common: expected 3 or more'
    """
    from scipy.stats import kendalltau

    names = [name for name in first if name in second]
    if reason := _too_little(names, "encoder", first, second):
        return Correlation(None, len(names), reason=reason)
    tau = kendalltau([first[name] for name in names], [second[name] for name in names])
    return Correlation(float(tau.statistic), len(names))


def rank_correlation(first: Accuracies, second: Accuracies) -> Correlation:
    """Return Spearman's correlation between two numbers of the same points.

    >>> rising = {"a": 1.0, "b": 2.0, "c": 3.0}
    >>> round(rank_correlation(rising, {"a": 0.0, "b": 5.0, "c": 9.0}).value, 6)
    1.0
    """
    from scipy.stats import spearmanr

    names = [name for name in first if name in second]
    if reason := _too_little(names, "point", first, second):
        return Correlation(None, len(names), reason=reason)
    rho = spearmanr([first[name] for name in names], [second[name] for name in names])
    return Correlation(float(rho.statistic), len(names))


def _too_little(names: list[str], what: str, first: Accuracies, second: Accuracies) -> str:
    """Say why no correlation can be given; empty if one can."""
    if len(names) < FEWEST:
        points = f"{len(names)} {what}{'' if len(names) == 1 else 's'} in common"
        return f"{points}: expected {FEWEST} or more"
    for values in (first, second):
        if len({values[name] for name in names}) == 1:
            return f"all {len(names)} {what}s are equal: no order"
    return ""


def mean_of(found: Iterable[Correlation], nothing: str) -> Correlation:
    """Return the mean of those correlations that have a value.

    Args:
        found: the correlations.
        nothing: why there is none where ``found`` is empty.
    """
    found = list(found)
    known = [(one.value, one.points) for one in found if one.value is not None]
    if not known:
        reason = found[0].reason if found else nothing
        return Correlation(None, max((one.points for one in found), default=0), 0, reason)
    value = math.fsum(value for value, _ in known) / len(known)
    return Correlation(value, min(points for _, points in known), len(known))


def task_agreement(grid: Grid) -> dict[tuple[str, str], Correlation]:
    """Return Kendall's tau-b between the encoder rankings of every two tasks.

    Between two different tasks: the mean over the widths that both have. Between a task and itself:
    the mean over every two of its widths, what could be expected if the task made no difference.

    Returns:
        For every ordered pair of tasks, symmetric.
    """
    tasks = tasks_of(grid)
    widths = {task: [c.widening for c in grid if c.task == task and grid[c]] for task in tasks}
    found: dict[tuple[str, str], Correlation] = {}
    for task in tasks:
        own = combinations(widths[task], 2)
        found[task, task] = mean_of(
            (rank_agreement(grid[Cell(task, a)], grid[Cell(task, b)]) for a, b in own),
            "one width",
        )
    for one, other in combinations(tasks, 2):
        common = [width for width in widths[one] if width in widths[other]]
        found[one, other] = found[other, one] = mean_of(
            (rank_agreement(grid[Cell(one, w)], grid[Cell(other, w)]) for w in common),
            "no width in common",
        )
    return found


def overall(agreement: Mapping[tuple[str, str], Correlation], *, same: bool) -> Correlation:
    """Return the mean of `task_agreement` over pairs of different tasks, or of the ``same``."""
    chosen = (
        found
        for (one, other), found in agreement.items()
        if (one == other if same else one < other)
    )
    return mean_of(chosen, "no two tasks")


def seed_agreement(grids: Mapping[int, Grid]) -> Correlation:
    """Return Kendall's tau-b between the rankings of a column by every two seeds, on average.

    What chance alone leaves of an agreement: no two tasks can be expected to agree better.

    Args:
        grids: seed -> its grid.
    """
    found = (
        correlation
        for one, other in combinations(grids.values(), 2)
        for correlation in cell_agreement(one, other).values()
    )
    return mean_of(found, "one seed")


def cell_agreement(first: Grid, second: Grid) -> dict[Cell, Correlation]:
    """Return Kendall's tau-b between two grids' encoder rankings of every column that both have.

    For instance with a tenth of the labels and with all.
    """
    return {
        cell: rank_agreement(found, second[cell])
        for cell, found in first.items()
        if found and second.get(cell)
    }


def width_steps(grid: Grid) -> list[Step]:
    """Return what each widening to the next width changes, task by task, encoder by encoder."""
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


def reversals(grid: Grid) -> dict[tuple[str, str], dict[str, float]]:
    """Return the pairs of encoders whose order depends on the task, and by how much.

    Returns:
        (one, other) -> task -> accuracy of one minus that of the other, the mean over the widths
        that have both. Only pairs with differences of both signs.

    >>> rotation, jigsaw = Cell("rotation", 8), Cell("jigsaw", 8)
    >>> reversals({rotation: {"rev": 34.0, "v1": 26.0}, jigsaw: {"rev": 22.0, "v1": 28.0}})
    {('rev', 'v1'): {'rotation': 8.0, 'jigsaw': -6.0}}
    """
    found = {pair: differences(grid, *pair) for pair in combinations(encoders_of(grid), 2)}
    return {
        pair: by_task
        for pair, by_task in found.items()
        if min(by_task.values(), default=0.0) < 0 < max(by_task.values(), default=0.0)
    }


def differences(grid: Grid, one: str, other: str) -> dict[str, float]:
    """Return task -> accuracy of one encoder minus another's, the mean over common widths."""
    by_task: dict[str, list[float]] = {}
    for cell, found in grid.items():
        if one in found and other in found:
            by_task.setdefault(cell.task, []).append(found[one] - found[other])
    return {task: math.fsum(found) / len(found) for task, found in by_task.items()}


def improving(steps: Iterable[Step]) -> int:
    """Count the steps that raise the accuracy."""
    return sum(step.gain > 0 for step in steps)
