"""Feature transformation, Figure 3: scores and gradients for different start epochs.

    nox -s reproduce-feature_transform-figure3
    nox -s reproduce-feature_transform-figure3 -- --scale paper --data imagefolder:/data/imagenet

Draws Mean(pos), Mean(neg) and Var(neg) over the run and over its first tenth, and the gradient
landscapes. Runs are those of Table 2 with ResNet-18. Proxy scale: 5 trainings, 5.6 TFLOP. Expected:
higher negative scores early on if the transformation starts before the queue holds keys.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

from feature_transform import MoCoFTRecipe
from reproductions.baselines import FACTS
from reproductions.feature_transform.recipes import IMAGENET100_IMAGES, moco, resnet18, transform
from reproductions.feature_transform.recorded_curves import (
    draw_early_scores,
    draw_gradient_landscapes,
    draw_score_curves,
)
from reproductions.feature_transform.scales import proxy, smoke
from retable.reproduce import FinishedRun, Metric, Table, TableRow, main
from retable.train.gradients import read_landscape
from retable.train.recipe import PretrainRecipe
from retable.train.traces import Trace, read_traces

METHODS = {
    "moco": moco(),
    **{f"start_{epoch}": moco(transform(start_epoch=epoch)) for epoch in (0, 2, 30, 50)},
}


def scores_in_the_loss(traces: Mapping[str, Trace], name: str) -> dict[int, float]:
    """Return step -> statistic of the transformed scores, of the raw scores before the start."""
    raw, transformed = traces[name], traces.get(f"transformed_{name}")
    seen = dict(zip(raw.steps, raw.values, strict=True))
    if transformed is not None:
        seen |= dict(zip(transformed.steps, transformed.values, strict=True))
    return seen


def mean_between(values: Mapping[int, float], first: float, last: float) -> float:
    """Return the mean over steps from ``first`` on and before ``last``, counted from 0."""
    chosen = [value for step, value in values.items() if first <= step - 1 < last]
    return sum(chosen) / len(chosen) if chosen else math.nan


def around_the_start(recipe: PretrainRecipe, history: FinishedRun) -> dict[str, float]:
    """Return the statistics of a run's first tenth and of the start of its transformation.

    Before and after the start are a fiftieth of the run each, two epochs of the paper's, and for
    gradients, which are recorded by epoch, the last epoch before and the first one after. A run
    that starts transformed, or with too little before it, has no "before".
    """
    traces = read_traces(history.folder)
    scores = {name: scores_in_the_loss(traces, name) for name in ("positive_mean", "negative_mean")}
    steps = max(scores["negative_mean"])
    figures = {"early_negative_mean": mean_between(scores["negative_mean"], 0, steps / 10)}
    method = recipe.method
    if not isinstance(method, MoCoFTRecipe) or method.transform.start_epoch < 1:
        return figures
    start, window = method.transform.start_epoch * steps / len(history.epochs), steps / 50
    for name, found in scores.items():
        after = mean_between(found, start, start + window)
        figures[f"switch_{name}"] = after - mean_between(found, start - window, start)
    landscape = read_landscape(history.folder)
    norms = dict(zip(landscape.epochs, landscape.mean.norm(dim=1).tolist(), strict=True))
    last_before = math.floor(method.transform.start_epoch)
    first_after = math.ceil(method.transform.start_epoch) + 1
    figures["switch_gradient"] = norms[first_after] / norms[last_before]
    return figures


TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(resnet18(method), ()) for name, method in METHODS.items()},
    columns={
        name: Metric(f"history.{name}")
        for name in (
            "early_negative_mean",
            "switch_positive_mean",
            "switch_negative_mean",
            "switch_gradient",
        )
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    facts=FACTS,
    subset="imagenet100",
    derive=around_the_start,
    plots=(draw_score_curves, draw_early_scores, draw_gradient_landscapes),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
