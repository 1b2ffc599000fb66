"""MoCHi, Figure 3b: accuracy gain over MoCo-v2 on ImageNet-100 for N = 1024 while s and s' vary.

    nox -s reproduce-mochi-figure3b
    nox -s reproduce-mochi-figure3b -- --scale paper --data imagefolder:/data/imagenet

A grid of 20 cells; the baseline and two others are runs of Table 1 and are trained once for both.
Proxy scale: 20 trainings, 79 TFLOP. Expected at paper scale: gains of 0.3 to 1.1 points in every
cell, too close to each other to rank single cells.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.recipes import IMAGENET100_IMAGES, LINEAR_100, imagenet100
from reproductions.mochi.pictures import draw_gains
from reproductions.mochi.recipes import mochi
from reproductions.mochi.scales import proxy, smoke
from retable.methods import moco_v2
from retable.plots import drawing
from retable.reproduce import FinishedRuns, Gain, Metric, Table, TableRow, main
from retable.tables import Comparison

S = (0, 128, 256, 512, 1024)
S_PRIME = (0, 128, 256, 512)
GRID = [[f"s{s}_sp{s_prime}" for s_prime in S_PRIME] for s in S]


def method(s: int, s_prime: int) -> TableRow:
    """Return the row of a cell; the baseline is MoCo-v2 itself, as in Table 1."""
    recipe = mochi(1024, s, s_prime) if s + s_prime else moco_v2(queue=16384)
    return TableRow(imagenet100(recipe), (LINEAR_100,))


def draw(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Draw the paper's grid and ours as heat maps."""
    figure = draw_gains(
        comparison,
        "gain",
        GRID,
        row_labels=[str(s) for s in S],
        column_labels=[str(s_prime) for s_prime in S_PRIME],
    )
    drawing.save(figure, folder / "grid.svg")


TABLE = Table(
    script=Path(__file__),
    rows={f"s{s}_sp{s_prime}": method(s, s_prime) for s in S for s_prime in S_PRIME},
    columns={"gain": Gain(Metric("linear.top1"), over="s0_sp0")},
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    facts=FACTS,
    subset="imagenet100",
    plots=(draw,),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
