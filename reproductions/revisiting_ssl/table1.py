"""Revisiting self-supervised learning, Table 1: features of each block with and without skips.

    nox -s reproduce-revisiting_ssl-table1
    nox -s reproduce-revisiting_ssl-table1 -- --scale paper --data /imagenet

ResNet18 v2 with and without skip connections. The two supervised rows are the control of the text:
with labels, skip connections make little difference; at proxy scale ``--rows all`` trains them.
Proxy scale: 6 trainings, 57 TFLOP. Expected at paper scale: skip connections add 0 to 2.7 points;
69.6 and 68.8 with labels.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.revisiting_ssl.recipes import IMAGENET_IMAGES, logistic, pretraining, supervised
from reproductions.revisiting_ssl.scales import proxy, smoke
from reproductions.revisiting_ssl.tap_curves import draw_taps
from retable.reproduce import Metric, Table, TableRow, main
from revisiting_ssl.encoders import ResidualRecipe

TAPS = ("block1", "block2", "block3", "block4", "pre_logits")


def resnet18(skip: bool) -> ResidualRecipe:
    """Return ResNet18 v2; without skip connections it has no projections either (D7)."""
    return ResidualRecipe("v2", units=(2, 2, 2, 2), bottleneck=False, skip=skip)


def rows_of(task: str) -> dict[str, TableRow]:
    """Return the two rows of a task."""
    return {
        f"{task}_{name}": TableRow(
            pretraining(task, resnet18(skip), widening=4), (logistic(task, "logistic", TAPS),)
        )
        for name, skip in (("no_skip", False), ("skip", True))
    }


def supervised_rows() -> dict[str, TableRow]:
    """Return the two networks that are trained with labels."""
    return {
        f"supervised_{name}": TableRow(
            supervised(resnet18(skip)), (logistic("rotation", "logistic", TAPS),)
        )
        for name, skip in (("no_skip", False), ("skip", True))
    }


TABLE = Table(
    script=Path(__file__),
    rows={**rows_of("rotation"), **rows_of("exemplar"), **supervised_rows()},
    columns={
        **{tap.replace("_", ""): Metric(f"logistic.top1@{tap}") for tap in TAPS},
        "pretext": Metric("monitor.pretext_accuracy", 100.0),
        "fallback": Metric("pretrain.fallback_share", 100.0),
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET_IMAGES,
    facts=FACTS,
    plots=(draw_taps,),
    check_rows=("rotation_no_skip", "rotation_skip"),
    first_rows=("rotation_no_skip", "rotation_skip", "exemplar_no_skip", "exemplar_skip"),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
