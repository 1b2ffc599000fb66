"""Recorded pair scores of runs, and the part of them that a picture shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy
from numpy.typing import NDArray

from retable.plots.curves import Places, Values

STATISTICS = {
    "positive_mean": ("Mean(pos)", "mean of the positive scores"),
    "negative_mean": ("Mean(neg)", "mean of the negative scores"),
    "negative_variance": ("Var(neg)", "variance of the negative scores"),
}
"""Name in the log -> title and axis label of its panel."""

TRANSFORMED = "transformed_"
"""Prefix of the statistics of scores as used in the loss."""

Scores = Literal["both", "raw", "transformed"]
Window = tuple[float, float]


@dataclass(frozen=True)
class ScoreCurves:
    """Recorded pair scores of a run.

    Attributes:
        steps: (N,) int64, ascending, the recorded steps, counted from 1.
        values: statistic, a name of `STATISTICS` with or without the prefix `TRANSFORMED` -> (N,),
            NaN if a step lacks it.
        steps_per_epoch: None if it is unknown; then there is no axis of epochs.
        dim: D, the dimension of the unit sphere that the scores are cosines on; None if it is
            unknown or the features do not have unit length.
        start_epoch: first epoch, from 0, with transformed scores; None if they never are.
    """

    steps: Places
    values: Mapping[str, Values] = field(repr=False)
    steps_per_epoch: int | None = None
    dim: int | None = None
    start_epoch: float | None = None


@dataclass(frozen=True)
class View:
    """Axis, window, smoothing and kinds of the curves of a figure."""

    in_epochs: bool
    window: Window
    smooth: int
    scores: Scores
    alone: bool

    def x(self, run: ScoreCurves) -> Values:
        """Return the x values (N,) of a run's steps; a step is drawn where it ends."""
        return run.steps / (run.steps_per_epoch or 1 if self.in_epochs else 1)

    def part(self, run: ScoreCurves) -> NDArray[numpy.bool_]:
        """Return which steps (N,) are shown."""
        x = self.x(run)
        return (x >= self.window[0]) & (x <= self.window[1])

    def kinds(self, run: ScoreCurves, name: str) -> Iterator[tuple[str, Values]]:
        """Yield the shown kinds of a statistic, raw or transformed, with their values (N,)."""
        for kind, prefix in (("raw", ""), ("transformed", TRANSFORMED)):
            if self.scores in (kind, "both") and prefix + name in run.values:
                yield kind, run.values[prefix + name]
