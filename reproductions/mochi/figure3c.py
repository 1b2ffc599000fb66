"""MoCHi, Figure 3c: alignment and uniformity of ImageNet-100 validation features.

    nox -s reproduce-mochi-figure3c
    nox -s reproduce-mochi-figure3c -- --scale paper --data imagefolder:/data/imagenet

The features are those of the pooled backbone, L2-normalised, because a supervised network has no
projection head (the paper's choice is unknown). Runs are those of Table 1. Proxy scale: 5
trainings, 19 TFLOP. Expected: the orderings that the claims state; the slides print no
coordinates.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.recipes import (
    IMAGENET100_IMAGES,
    LINEAR_100,
    imagenet100,
    supervised_bound,
)
from reproductions.mochi.pictures import draw_scatter
from reproductions.mochi.recipes import mochi
from reproductions.mochi.scales import proxy, smoke
from retable import views
from retable.evaluate.geometry import Geometry
from retable.methods import moco_v2
from retable.plots import drawing
from retable.reproduce import FinishedRuns, Metric, Table, TableRow, main
from retable.tables import Comparison

ROWS = {
    "supervised": supervised_bound(100),
    "moco_v2": imagenet100(moco_v2(queue=16384)),
    "mochi": imagenet100(mochi(1024, 1024, 128)),
    "moco_v2_oracle": imagenet100(moco_v2(queue=16384, oracle=True)),
    "mochi_oracle": imagenet100(mochi(1024, 1024, 128, oracle=True)),
}
GEOMETRY = Geometry(view=views.center(224, 256))


def draw(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Draw alignment against uniformity, coloured by top-1."""
    figure = draw_scatter(comparison, "neg_align", "neg_uniform", "top1")
    drawing.save(figure, folder / "scatter.svg")


TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(recipe, (LINEAR_100, GEOMETRY)) for name, recipe in ROWS.items()},
    columns={
        "neg_align": Metric("geometry.alignment", -1.0),
        "neg_uniform": Metric("geometry.uniformity", -1.0),
        "top1": Metric("linear.top1"),
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    facts=FACTS,
    subset="imagenet100",
    plots=(draw,),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
