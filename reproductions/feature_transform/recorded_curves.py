"""Plots of recorded curves: scores of every step, gradients of every epoch."""

from __future__ import annotations

import math
from pathlib import Path

from retable.plots import drawing
from retable.plots.gradients import draw_gradients
from retable.plots.recorded import read_gradients, read_scores
from retable.plots.scores import draw_scores
from retable.reproduce import FinishedRuns
from retable.tables import Comparison


def first_folders(comparison: Comparison, histories: FinishedRuns) -> dict[str, Path]:
    """Return row label -> folder of the first seed's run, for rows that have run."""
    labels = {row.row.key: row.row.label for row in comparison.rows}
    return {
        labels.get(name, name): by_seed[min(by_seed)].folder
        for name, by_seed in histories.items()
        if by_seed
    }


def draw_score_curves(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Draw the three statistics of every row over the run."""
    _save_scores(first_folders(comparison, histories), folder / "scores.svg")


def draw_early_scores(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Draw the three statistics over the first tenth of the run, as the paper does.

    A run that ended in its first epoch has no tenth, and the whole curve is drawn besides.
    """
    runs = first_folders(comparison, histories)
    last = max((len(by_seed[min(by_seed)].epochs) for by_seed in histories.values()), default=0)
    if last:
        _save_scores(runs, folder / "scores_early.svg", (0, math.ceil(last / 10)))


def _save_scores(
    runs: dict[str, Path], path: Path, epochs: tuple[float, float] | None = None
) -> None:
    if runs:
        curves = {label: read_scores(run) for label, run in runs.items()}
        drawing.save(draw_scores(curves, epochs=epochs), path)


def draw_gradient_landscapes(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Draw the gradient landscape of every row, as heat map and as surface.

    It is recorded at the end of an epoch; of a run that ended in its first there is none.
    """
    lasting = {
        name: by_seed
        for name, by_seed in histories.items()
        if by_seed and by_seed[min(by_seed)].epochs
    }
    folders = first_folders(comparison, lasting)
    runs = {label: read_gradients(run) for label, run in folders.items()}
    if runs:
        drawing.save(draw_gradients(runs), folder / "gradients.svg")
