"""Revisiting self-supervised learning, Table 2: ImageNet with a tenth of the labels.

    nox -s reproduce-revisiting_ssl-table2
    nox -s reproduce-revisiting_ssl-table2 -- --scale paper --data /imagenet

Tables 2 to 4 share 66 encoders, which are trained once; their features are computed once for each
data set. Proxy scale: 19 of them, 84 TFLOP, of which a first command trains the 7 of the claims and
the check, 40 TFLOP, and ``--rows all`` every one. Expected at paper scale: RevNet50 is the best
encoder of Rotation, ResNet50 v1 of the other tasks; width improves 37 of 42 steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.revisiting_ssl.grid import grid_table
from reproductions.revisiting_ssl.recipes import logistic
from retable.evaluate.logistic.probe import LogisticProbe
from retable.reproduce import main


def evaluations(task: str) -> tuple[LogisticProbe, ...]:
    """Return the printed evaluation, and that with all labels for the comparison of rankings."""
    return logistic(task, "imagenet_10", labels=0.1), logistic(task, "imagenet")


CHECK_ROWS = ("resnet50_v1/rotation_4x", "revnet50/rotation_4x", "vgg19_bn/rotation_4x")
TABLE = grid_table(Path(__file__), "imagenet_10", evaluations, CHECK_ROWS)

if __name__ == "__main__":
    sys.exit(main(TABLE))
