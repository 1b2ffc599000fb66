"""Plot of the first claim: the order of two encoders depends on the pretext task."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

from reproductions.revisiting_ssl.grid_readings import (
    OURS,
    TASKS,
    TIMES,
    grids_by_seed,
    labels_of,
    paper_grid,
    title_of,
)
from retable.plots.drawing import CYCLE, GREY, INK, add_legend, new_figure, save, style_axes
from retable.reproduce import FinishedRuns
from retable.tables import Comparison
from revisiting_ssl.analysis.grids import leads

CLAIMED = ("revnet50", "resnet50_v1")
"""The encoders of which each table claims that their order depends on the task."""


def draw_order(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Draw the lead of one encoder over another in every column, the paper's and ours."""
    from matplotlib.lines import Line2D

    paper = leads(paper_grid(comparison), *CLAIMED)
    seeds = [leads(grid, *CLAIMED) for grid in grids_by_seed(comparison).values()]
    if not paper:
        return
    gaps = [0, *(0.6 * (one.task != other.task) for one, other in pairwise(paper))]
    places = {cell: place + sum(gaps[: place + 1]) for place, cell in enumerate(paper)}
    figure = new_figure(1.6 + 0.7 * len(paper), 3.8)
    axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=0.8)
    for cell, place in places.items():
        axes.plot(place - 0.12, paper[cell], "D", color=GREY, markerfacecolor="white", zorder=3)
        axes.plot([place - 0.12] * 2, [0, paper[cell]], color=GREY, linewidth=1)
        if own := [found[cell] for found in seeds if cell in found]:
            mean = math.fsum(own) / len(own)
            axes.plot([place + 0.12] * 2, [0, mean], color=CYCLE[0], linewidth=2)
            axes.plot(place + 0.12, mean, "o", color=CYCLE[0], zorder=3)
            axes.plot([place + 0.12] * len(own), own, "_", color=CYCLE[0], markersize=8)
    for task in dict.fromkeys(cell.task for cell in paper):
        own = [place for cell, place in places.items() if cell.task == task]
        middle = sum(own) / len(own)
        axes.text(middle, 1.02, TASKS[task], ha="center", transform=axes.get_xaxis_transform())
    axes.set_xticks(list(places.values()), [f"{cell.widening}{TIMES}" for cell in places])
    one, other = (labels_of(comparison)[name] for name in CLAIMED)
    style_axes(axes, y=f"{one} ahead of {other} (points)", grid="y")
    handles = [
        Line2D([], [], linestyle="", marker="D", color=GREY, markerfacecolor="white", label="paper")
    ]
    if seeds:
        label = title_of(OURS, comparison).lower() + "; dashes: each seed" * (len(seeds) > 1)
        handles.append(Line2D([], [], color=CYCLE[0], marker="o", linewidth=2, label=label))
    add_legend(figure, handles, "outside lower center")
    figure.suptitle(f"{comparison.table.id}: which encoder is ahead, by pretext task", fontsize=11)
    save(figure, folder / "order.svg")
