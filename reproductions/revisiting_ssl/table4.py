"""Revisiting self-supervised learning, Table 4: Places205 with a twentieth of the labels.

    nox -s reproduce-revisiting_ssl-table4
    nox -s reproduce-revisiting_ssl-table4 -- --scale paper --data /imagenet --places /places

Tables 2 to 4 share 66 encoders, which are trained once; their features are computed once for each
data set. Proxy scale: 19 of them, 84 TFLOP, of which a first command trains the 6 of the claims and
the check, 37 TFLOP, and ``--rows all`` every one. Expected at paper scale: RevNet50 is the best
encoder of Rotation, ResNet50 v1 of the other tasks; width improves 29 of 42 steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.revisiting_ssl.grid import grid_table
from reproductions.revisiting_ssl.recipes import logistic
from retable.evaluate.logistic.probe import LogisticProbe
from retable.reproduce import main


def evaluations(task: str) -> tuple[LogisticProbe, ...]:
    """Return the printed evaluation."""
    return (logistic(task, "places_5", source="places", labels=0.05),)


CHECK_ROWS = ("resnet50_v1/jigsaw_4x", "revnet50/jigsaw_4x")
TABLE = grid_table(Path(__file__), "places_5", evaluations, CHECK_ROWS)

if __name__ == "__main__":
    sys.exit(main(TABLE))
