"""Plot of the encoders' ranks in every column of the grid and of the tasks' agreement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reproductions.revisiting_ssl.grid_readings import (
    TASKS,
    TIMES,
    all_statistics,
    labels_of,
    title_of,
)
from reproductions.revisiting_ssl.grid_report import signed
from retable.plots.drawing import GREY, INK, new_figure, save, style_axes
from retable.reproduce import FinishedRuns
from retable.tables import Comparison
from retable.tables.phrases import EMPTY
from revisiting_ssl.analysis.agreement import GridStatistics, mean_agreement
from revisiting_ssl.analysis.correlations import chance_spread
from revisiting_ssl.analysis.grids import Cell, encoders_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_ranks(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Draw the encoders' ranks in every column and the agreement of the tasks' rankings."""
    found = all_statistics(comparison, histories)
    lines = [len(encoders_of(one.grid)) for one in found.values()]
    columns = max(len(one.ranks) for one in found.values())
    tasks = max(len(one.best) for one in found.values())
    figure = new_figure(
        2.4 + 0.62 * columns + 0.95 * tasks, 0.7 + sum(1.25 + 0.42 * n for n in lines)
    )
    grid = figure.subplots(
        len(found),
        2,
        squeeze=False,
        width_ratios=(0.62 * columns, 0.8 * tasks),
        height_ratios=[1.25 + 0.42 * n for n in lines],
    )
    for (left, right), (name, one) in zip(grid, found.items(), strict=True):
        _draw_rank_map(left, one, labels_of(comparison))
        left.set_title(title_of(name, comparison), fontsize=10, loc="left", pad=20)
        _draw_agreement(right, one)
    figure.suptitle(
        f"{comparison.table.id}: rank of each encoder within a column (1 is best), accuracy in %",
        fontsize=11,
        color=INK,
    )
    save(figure, folder / "ranks.svg")


def _draw_rank_map(axes: Axes, found: GridStatistics, labels: Mapping[str, str]) -> None:
    encoders, cells = encoders_of(found.grid), list(found.ranks)
    values = [[found.ranks[cell].get(name, math.nan) for cell in cells] for name in encoders]
    style_axes(axes, grid=None, spines=[])
    axes.set_facecolor("#f4f4f4")
    axes.imshow(values, cmap="Blues_r", vmin=0.4, vmax=len(encoders) + 1.2, aspect="auto")
    for y, name in enumerate(encoders):
        for x, cell in enumerate(cells):
            if name not in found.ranks[cell]:
                axes.text(x, y, "not run", ha="center", va="center", fontsize=6, color=GREY)
                continue
            rank, ink = values[y][x], INK
            if rank < 0.45 * len(encoders) + 0.5:
                ink = "white"
            text = f"{rank:g}"
            axes.text(x, y - 0.12, text, ha="center", va="center", fontsize=10, color=ink)
            accuracy = f"{found.grid[cell][name]:.1f}"
            axes.text(x, y + 0.3, accuracy, ha="center", va="center", fontsize=6.5, color=ink)
    axes.set_yticks(range(len(encoders)), [labels[name] for name in encoders], fontsize=9)
    axes.set_xticks(range(len(cells)), [_tick(found, cell) for cell in cells], fontsize=8)
    for name in found.shares:
        axes.set_xlabel(
            f"second line: Kendall's τ of the rankings with {name} and with all", fontsize=8
        )
    for place in range(1, len(cells)):
        if cells[place].task != cells[place - 1].task:
            axes.axvline(place - 0.5, color="white", linewidth=5)
    for task in dict.fromkeys(cell.task for cell in cells):
        places = [place for place, cell in enumerate(cells) if cell.task == task]
        middle = (places[0] + places[-1]) / 2
        axes.text(middle, -0.62, TASKS[task], ha="center", va="bottom", fontsize=9, color=INK)


def _tick(found: GridStatistics, cell: Cell) -> str:
    """Return a column's width and, if known, its tau between few and all labels."""
    lines = [f"{cell.widening}{TIMES}"]
    for agreements in found.shares.values():
        value = agreements[cell].value if cell in agreements else None
        lines.append(EMPTY if value is None else signed(value))
    return "\n".join(lines)


def _draw_agreement(axes: Axes, found: GridStatistics) -> None:
    tasks = list(found.best)
    values = [
        [math.nan if (v := found.tasks[one, other].value) is None else v for other in tasks]
        for one in tasks
    ]
    style_axes(axes, grid=None, spines=[])
    axes.set_facecolor("#f4f4f4")
    axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            known = math.isfinite(value)
            ink = ("white" if abs(value) > 0.6 else INK) if known else GREY
            text = signed(value) if known else EMPTY
            axes.text(x, y, text, ha="center", va="center", fontsize=9, color=ink)
    names = [TASKS[task] for task in tasks]
    axes.set_xticks(range(len(tasks)), [name.replace(" ", "\n", 1) for name in names], fontsize=8)
    axes.set_yticks(range(len(tasks)), names, fontsize=8)
    axes.set_title("Kendall's τ between rankings", fontsize=10, loc="left", pad=20)
    across = mean_agreement(found.tasks, same=False)
    if across.value is not None:
        chance = chance_spread(across.points)
        axes.set_xlabel(
            f"{across.points} encoders, mean over equal widths\n"
            f"diagonal: between the widths of a task\ntwo random rankings: 0 ± {chance:.2f}",
            fontsize=8,
        )
