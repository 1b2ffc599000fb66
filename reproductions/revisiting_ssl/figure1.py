"""Revisiting self-supervised learning, Figure 1: linear probes improve for hundreds of epochs.

    nox -s reproduce-revisiting_ssl-figure1
    nox -s reproduce-revisiting_ssl-figure1 -- --scale paper --data /imagenet

Trains a linear probe on one encoder of each task by SGD under three schedules; the dashed line is
the optimum of the same problem by L-BFGS. Proxy scale: 4 trainings, 45 TFLOP. Expected: the later
the first decay, the higher the accuracy.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.revisiting_ssl.probe_curves import draw_probe_curves
from reproductions.revisiting_ssl.recipes import BEST, IMAGENET_IMAGES, best, logistic, sgd
from reproductions.revisiting_ssl.scales import proxy, smoke
from retable.reproduce import FinishedRuns, Table, TableRow, main

FIRST_DECAYS = (30, 120, 480)
"""Epochs at which the learning rate falls for the first time."""


@dataclass(frozen=True)
class OfTheProbe:
    """Metric of the row's own probe; rows of a task share the run of their encoder.

    Attributes:
        figure: name of the metric.
        of_the_optimum: whether the L-BFGS probe has the metric too.
    """

    figure: str
    of_the_optimum: bool = True

    def value(self, row: str, seed: int, runs: FinishedRuns) -> float | None:
        """Return the metric, None if the row has not run."""
        _, _, probe = row.rpartition("_")
        if probe == "optimum" and not self.of_the_optimum:
            return None
        name = "optimum" if probe == "optimum" else f"linear_{probe}"
        run = runs.get(row, {}).get(seed)
        return run.metrics.get(f"{name}.{self.figure}") if run else None

    def reads(self, row: str) -> tuple[str, ...]:
        """Return the row as the training that it reads."""
        return (row,)


def rows_of(task: str) -> dict[str, TableRow]:
    """Return one encoder under three schedules, and its optimum."""
    probes = {str(epoch): sgd(task, f"linear_{epoch}", epoch) for epoch in FIRST_DECAYS}
    rows = {f"{task}_{name}": TableRow(best(task), (probe,)) for name, probe in probes.items()}
    return {**rows, f"{task}_optimum": TableRow(best(task), (logistic(task, "optimum"),))}


TABLE = Table(
    script=Path(__file__),
    rows={name: row for task in BEST for name, row in rows_of(task).items()},
    columns={
        "top1": OfTheProbe("top1"),
        # The objective of L-BFGS includes a penalty.
        "objective": OfTheProbe("train_loss", of_the_optimum=False),
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET_IMAGES,
    facts=FACTS,
    plots=(draw_probe_curves,),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
