"""Plot of Figure 1: metrics of linear probes by SGD after each epoch, by schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reproductions.revisiting_ssl.grid_readings import TASKS
from retable.files import read_record
from retable.plots.drawing import CYCLE, GREY, INK, add_legend, new_figure, save, style_axes
from retable.reproduce import FinishedRun, FinishedRuns
from retable.reproduce.run import evaluation_owner, read_evaluation
from retable.tables import Comparison
from retable.tables.phrases import scale_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCHEDULES = ("30", "120", "480")
"""The rows of a task, by the epoch at which the paper's learning rate first falls."""

_FIGURES = {
    "top1": "test accuracy (%)",
    "train_loss": "training cross-entropy",
}


@dataclass(frozen=True)
class ProbeCurve:
    """Metrics of one probe after each epoch.

    Attributes:
        first_decay: epoch after which its learning rate falls for the first time.
        epochs: numbers of the epochs, from 1.
        values: figure -> its value after each epoch; accuracies in percent.
    """

    first_decay: int
    epochs: Sequence[int]
    values: Mapping[str, Sequence[float]]


def read_curve(history: FinishedRun, evaluation: str) -> ProbeCurve | None:
    """Read the curve of a run's probe, None if it has not finished.

    If other settings of the same name left results too, the probe is chosen whose accuracy is among
    the run's metrics.
    """
    for folder in sorted((history.folder / "evaluations").glob(f"{evaluation}-*")):
        curve = folder / "curve.json"
        result = read_evaluation(folder)
        if result is None or not curve.exists():
            continue
        if result["metrics"]["top1"] != history.metrics.get(f"{evaluation}.top1"):
            continue
        recipe, measured = result["recipe"], read_record(curve, evaluation_owner(folder))
        tap = recipe["representation"]["taps"][-1]
        values = {
            figure: [math.nan if value is None else value for value in measured[figure][tap]]
            for figure in _FIGURES
        }
        return ProbeCurve(recipe["milestones"][0], measured["epoch"], values)
    return None


def mean_curve(curves: Sequence[ProbeCurve], figure: str) -> list[float]:
    """Return the mean over seeds after each epoch that all have reached.

    >>> one, other = (ProbeCurve(30, (1, 2), {"top1": top1}) for top1 in ([1.0, 3.0], [3.0, 5.0]))
    >>> mean_curve([one, other], "top1")
    [2.0, 4.0]
    """
    return [
        math.fsum(values) / len(values)
        for values in zip(*(curve.values[figure] for curve in curves), strict=False)
    ]


def curves_of(histories: FinishedRuns, task: str) -> dict[str, list[ProbeCurve]]:
    """Return schedule -> curves of the seeds that have run."""
    found = {}
    for schedule in SCHEDULES:
        by_seed = histories.get(f"{task}_{schedule}", {})
        curves = [read_curve(history, f"linear_{schedule}") for history in by_seed.values()]
        found[schedule] = [curve for curve in curves if curve is not None]
    return {schedule: curves for schedule, curves in found.items() if curves}


def draw_probe_curves(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Draw a column of panels for each task: accuracy and loss against the epoch."""
    found = {task: curves for task in TASKS if (curves := curves_of(histories, task))}
    if not found:
        return
    figure = new_figure(0.8 + 2.9 * len(found), 5.6)
    grid = figure.subplots(len(_FIGURES), len(found), squeeze=False, sharex=True)
    for column, (task, curves) in enumerate(found.items()):
        for axes, (name, label) in zip(grid[:, column], _FIGURES.items(), strict=True):
            _draw_panel(axes, curves, name, _optimum(histories, task, name))
            style_axes(axes, y="" if column else label)
        grid[0, column].set_title(TASKS[task], fontsize=10)
        grid[-1, column].set_xlabel("epoch", fontsize=9)
    decays = {
        schedule: curves[0].first_decay
        for by_schedule in found.values()
        for schedule, curves in by_schedule.items()
    }
    _add_schedules(figure, decays)
    count = len(comparison.seeds)
    seeds = f"{count} seed{'' if count == 1 else 's'}"
    title = f"{comparison.table.id}: linear probes by SGD ({seeds}); {scale_title(comparison)}"
    figure.suptitle(title, fontsize=11, color=INK)
    save(figure, folder / "probes.svg")


def _optimum(histories: FinishedRuns, task: str, figure: str) -> float | None:
    """Return the optimum by L-BFGS, the mean over seeds; None if it has not run."""
    by_seed = histories.get(f"{task}_optimum", {}).values()
    name = f"optimum.{figure}"
    found = [history.metrics[name] for history in by_seed if name in history.metrics]
    return math.fsum(found) / len(found) if found else None


def _draw_panel(
    axes: Axes, curves: Mapping[str, Sequence[ProbeCurve]], figure: str, optimum: float | None
) -> None:
    for place, (schedule, seeds) in enumerate(curves.items()):
        ink, means = CYCLE[SCHEDULES.index(schedule)], mean_curve(seeds, figure)
        epochs = seeds[0].epochs[: len(means)]
        if len(seeds) > 1:
            every = list(zip(*(seed.values[figure] for seed in seeds), strict=False))
            lows, highs = [min(values) for values in every], [max(values) for values in every]
            axes.fill_between(epochs, lows, highs, color=ink, alpha=0.15, linewidth=0)
        axes.plot(epochs, means, color=ink, linewidth=1.4, zorder=5 - place)
        axes.plot(epochs[-1], means[-1], "o", color=ink, markersize=5, zorder=6)
    if optimum is not None:
        axes.axhline(optimum, color=INK, linestyle="--", linewidth=1.0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")


def _add_schedules(figure: Figure, decays: Mapping[str, int]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=ink, label=f"learning rate first falls after epoch {decays[schedule]}")
        for schedule, ink in zip(SCHEDULES, CYCLE, strict=False)
        if schedule in decays
    ]
    handles += [
        Line2D([], [], color=GREY, linestyle="", marker="o", markersize=5, label="end of training"),
        Line2D([], [], color=INK, linestyle="--", linewidth=1.0, label="optimum by L-BFGS"),
    ]
    add_legend(figure, handles, "outside lower center")
