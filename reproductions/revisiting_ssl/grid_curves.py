"""Plots of the grid: accuracy against width, and linear against pretext accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproductions.revisiting_ssl.grid_readings import (
    OURS,
    PAPER,
    PART,
    PRETEXT,
    TASKS,
    TIMES,
    all_statistics,
    columns_of,
    labels_of,
    metric_grid,
    our_grid,
    title_of,
)
from reproductions.revisiting_ssl.grid_report import signed
from retable.plots.drawing import CYCLE, GREY, INK, add_legend, new_figure, save, style_axes
from retable.reproduce import FinishedRuns
from retable.tables import Comparison
from revisiting_ssl.analysis.agreement import GridStatistics
from revisiting_ssl.analysis.correlations import Correlation
from revisiting_ssl.analysis.grids import Cell, count_improving, encoders_of
from revisiting_ssl.analysis.pretext import predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vP"


def draw_widths(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Draw accuracy against widening, a panel for each task, a line for each encoder."""
    found = {
        name: one for name, one in all_statistics(comparison, histories).items() if name != PART
    }
    tasks = list(found[PAPER].best)
    widths = [sum(cell.task == task for cell in found[PAPER].ranks) for task in tasks]
    figure = new_figure(1.2 + 0.85 * sum(widths), 0.9 + 2.5 * len(found))
    grid = figure.subplots(
        len(found), len(tasks), squeeze=False, sharey="row", width_ratios=[n + 1 for n in widths]
    )
    inks = _inks(comparison)
    for line, (name, one) in zip(grid, found.items(), strict=True):
        for axes, task in zip(line, tasks, strict=True):
            _draw_slopes(axes, comparison, one, task, inks, spread=name == OURS)
        count = f"{count_improving(one.steps)} of {len(one.steps)} steps improve"
        line[0].set_ylabel(f"{title_of(name, comparison)}\n{count}\n\naccuracy (%)", fontsize=9)
    from matplotlib.lines import Line2D

    dotted = Line2D([], [], color=GREY, linestyle=":", label="step that does not improve")
    _add_encoders(figure, comparison, list(inks), [dotted])
    figure.suptitle(
        f"{comparison.table.id}: accuracy against the widening factor", fontsize=11, color=INK
    )
    save(figure, folder / "widths.svg")


def _inks(comparison: Comparison) -> dict[str, str]:
    """Give every encoder its colour."""
    return {row.row.key: CYCLE[place % len(CYCLE)] for place, row in enumerate(comparison.rows)}


def _add_encoders(
    figure: Figure, comparison: Comparison, drawn: Sequence[str], more: Sequence[Any]
) -> None:
    from matplotlib.lines import Line2D

    inks, labels = _inks(comparison), labels_of(comparison)
    handles = [
        Line2D([], [], color=inks[name], marker="o", markersize=4, label=labels[name])
        for name in drawn
    ]
    add_legend(figure, [*handles, *more], "outside lower center")


def _draw_slopes(
    axes: Axes,
    comparison: Comparison,
    found: GridStatistics,
    task: str,
    inks: Mapping[str, str],
    *,
    spread: bool,
) -> None:
    steps = [step for step in found.steps if step.task == task]
    for step in steps:
        ends = [found.grid[Cell(task, width)][step.encoder] for width in (step.narrow, step.wide)]
        dashes, ink = "-" if step.gain > 0 else ":", inks[step.encoder]
        axes.plot([step.narrow, step.wide], ends, dashes, color=ink, linewidth=1.6)
    for column, cell in columns_of(comparison).items():
        if cell.task != task:
            continue
        for row in comparison.rows:
            value = found.grid[cell].get(row.row.key)
            if value is not None:
                std = row.cells[column.key].std if spread else None
                axes.errorbar(
                    cell.widening,
                    value,
                    std,
                    fmt="o",
                    markersize=4,
                    elinewidth=1,
                    color=inks[row.row.key],
                )
    shown = sorted(cell.widening for cell in found.ranks if cell.task == task)
    if not shown:
        axes.set_visible(False)
        return
    axes.set_xticks(shown, [f"{width}{TIMES}" for width in shown], fontsize=8)
    axes.set_xlim(min(shown) - 2, max(shown) + 2)
    axes.set_title(f"{TASKS[task]}: {count_improving(steps)} of {len(steps)}", fontsize=9)
    style_axes(axes, grid="y")


def draw_scatter(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Draw linear against pretext accuracy, a panel for each task whose runs have both."""
    pretext = metric_grid(comparison, histories, PRETEXT, 100.0)
    ours = our_grid(comparison)
    found = predictions(pretext, ours)
    if not found:
        return
    figure = new_figure(max(5.0, 0.6 + 3.0 * len(found)), 4.3)
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    inks = _inks(comparison)
    widths = sorted({cell.widening for cell in pretext if pretext[cell]})
    markers = dict(zip(widths, _MARKERS, strict=False))
    for axes, (task, one) in zip(panels, found.items(), strict=True):
        for name in encoders_of(pretext):
            points = [
                (pretext[cell][name], ours[cell][name], cell.widening)
                for cell in sorted(pretext)
                if cell.task == task and name in pretext[cell] and name in ours[cell]
            ]
            xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
            axes.plot(xs, ys, color=inks[name], linewidth=0.8, alpha=0.6)
            for x, y, width in points:
                axes.plot(x, y, markers[width], color=inks[name], markersize=7)
        style_axes(axes, title=TASKS[task])
        axes.set_xlabel(
            "held-out pretext accuracy (%)\n\n"
            f"Spearman over encoders: {_brief(one.encoders)}\n"
            f"over all: {_brief(one.all)}\n"
            f"{one.agreeing} of {one.steps} widenings move both alike",
            fontsize=8,
        )
        axes.margins(0.12)
    panels[0].set_ylabel("accuracy of the linear model (%)", fontsize=9)
    from matplotlib.lines import Line2D

    shapes = [
        Line2D([], [], linestyle="", color=GREY, marker=marker, label=f"{width}{TIMES}")
        for width, marker in markers.items()
    ]
    _add_encoders(figure, comparison, encoders_of(pretext), shapes)
    title = title_of(OURS, comparison).lower()
    figure.suptitle(
        f"{comparison.table.id}: does pretext accuracy predict the linear model's? ({title})",
        fontsize=11,
        color=INK,
    )
    save(figure, folder / "pretext.svg")


def _brief(found: Correlation) -> str:
    if found.value is None:
        return f"none ({found.reason})"
    return f"{signed(found.value)} (n = {found.points})"
