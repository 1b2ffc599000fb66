"""What runs recorded of their pair scores, and which of it a picture shows."""

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
"""Name in the log -> title and meaning of its panel."""

TRANSFORMED = "transformed_"
"""What precedes the name of a statistic of the scores as used in the loss."""

Scores = Literal["both", "raw", "transformed"]
Window = tuple[float, float]


@dataclass(frozen=True)
class ScoreCurves:
    """What a run recorded of its pair scores.

    Attributes:
        steps: (N,) int64, ascending, the recorded steps, counted from 1.
        values: statistic, a name of `STATISTICS` with or without `TRANSFORMED` before it -> (N,),
            NaN where a step lacks it.
        steps_per_epoch: None where it is not known: then there is no axis of epochs.
        dim: D, the dimension of the unit sphere that the scores are cosines on; None: not known,
            or the features have no unit length.
        start_epoch: the epoch, from 0, from which on scores are transformed; None: they never are.
    """

    steps: Places
    values: Mapping[str, Values] = field(repr=False)
    steps_per_epoch: int | None = None
    dim: int | None = None
    start_epoch: float | None = None


@dataclass(frozen=True)
class View:
    """How the curves of a figure are shown."""

    in_epochs: bool
    window: Window
    smooth: int
    scores: Scores
    alone: bool

    def x(self, run: ScoreCurves) -> Values:
        """Return the places (N,) of a run's steps; a step is done at the end of its stretch."""
        return run.steps / (run.steps_per_epoch or 1 if self.in_epochs else 1)

    def part(self, run: ScoreCurves) -> NDArray[numpy.bool_]:
        """Return which steps (N,) are shown."""
        x = self.x(run)
        return (x >= self.window[0]) & (x <= self.window[1])

    def kinds(self, run: ScoreCurves, name: str) -> Iterator[tuple[str, Values]]:
        """Yield what is shown of a statistic: raw or transformed, and its values (N,)."""
        for kind, prefix in (("raw", ""), ("transformed", TRANSFORMED)):
            if self.scores in (kind, "both") and prefix + name in run.values:
                yield kind, run.values[prefix + name]
