"""Correlation of the accuracy in a pretext task with that of a linear model on its encoders."""

from __future__ import annotations

from dataclasses import dataclass

from revisiting_ssl.analysis.correlations import Correlation, mean_correlation, spearman
from revisiting_ssl.analysis.grids import Grid, tasks_of, width_steps


@dataclass(frozen=True)
class Prediction:
    """Spearman's correlations of pretext accuracy and linear accuracy, for one task.

    Attributes:
        encoders: correlation over encoders of one width, the mean over the widths.
        widths: correlation over the widths of one encoder, the mean over the encoders.
        all: correlation over all encoders and widths together.
        steps: number of width steps that change both accuracies.
        agreeing: number of these steps in which both rise or both fall.
    """

    encoders: Correlation
    widths: Correlation
    all: Correlation
    steps: int
    agreeing: int


def predictions(pretext: Grid, accuracies: Grid) -> dict[str, Prediction]:
    """Return the prediction of each task; ``accuracies`` are those of the linear model."""
    return {task: _prediction(task, pretext, accuracies) for task in tasks_of(pretext)}


def _prediction(task: str, pretext: Grid, accuracies: Grid) -> Prediction:
    own = {cell: found for cell, found in pretext.items() if cell.task == task}
    other = {cell: accuracies.get(cell, {}) for cell in own}
    encoders = dict.fromkeys(name for found in own.values() for name in found)
    changes = {step[:4]: step.gain for step in width_steps(own)}
    steps = [(changes[step[:4]], step.gain) for step in width_steps(other) if step[:4] in changes]
    moving = [(before, after) for before, after in steps if before and after]
    return Prediction(
        mean_correlation((spearman(own[cell], other[cell]) for cell in own), "no width"),
        mean_correlation(
            (spearman(_over_widths(own, name), _over_widths(other, name)) for name in encoders),
            "no encoder",
        ),
        spearman(_points(own), _points(other)),
        len(moving),
        sum((before > 0) == (after > 0) for before, after in moving),
    )


def _over_widths(grid: Grid, encoder: str) -> dict[str, float]:
    return {f"{c.widening}": found[encoder] for c, found in grid.items() if encoder in found}


def _points(grid: Grid) -> dict[str, float]:
    return {f"{name} {c.widening}": v for c, found in grid.items() for name, v in found.items()}
