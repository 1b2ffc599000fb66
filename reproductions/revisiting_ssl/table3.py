"""Revisiting self-supervised learning, Table 3: Places205 with all labels.

    nox -s reproduce-revisiting_ssl-table3
    nox -s reproduce-revisiting_ssl-table3 -- --scale paper --data /imagenet --places /places

The 66 encoders are those of Tables 2 to 4: trained once, their features computed once for each data
set.
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
    return (logistic(task, "places", source="places"),)


CHECK_ROWS = ("resnet50_v1/relpatchloc_4x", "revnet50/relpatchloc_4x")
TABLE = grid_table(Path(__file__), "places", evaluations, CHECK_ROWS)

if __name__ == "__main__":
    sys.exit(main(TABLE))
