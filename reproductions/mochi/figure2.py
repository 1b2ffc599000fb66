"""MoCHi, Figure 2: the proxy task and false negatives over training, with and without the oracle.

    nox -s reproduce-mochi-figure2
    nox -s reproduce-mochi-figure2 -- --scale paper --data imagefolder:/data/imagenet

Draws the matching probability of the negatives by rank (panel a), the accuracy of the proxy task
with and without synthetic negatives (panel b), and the share of same-class features among a query's
1024 hardest negatives (panel c). Proxy scale: 4 trainings, 16 TFLOP. Expected: synthetic negatives
lower the accuracy of the proxy task.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.recipes import IMAGENET100_IMAGES, imagenet100
from reproductions.mochi.pictures import draw_curves
from reproductions.mochi.recipes import mochi
from reproductions.mochi.scales import proxy, smoke
from retable.plots import drawing
from retable.reproduce import Difference, FinishedRuns, Metric, Table, TableRow, main
from retable.tables import Comparison

ROWS = {
    "moco_v2": mochi(1024, 0, 0, analyse=True),
    "mochi": mochi(1024, 1024, 128, analyse=True),
    "moco_v2_oracle": mochi(1024, 0, 0, analyse=True, oracle=True),
    "mochi_oracle": mochi(1024, 1024, 128, analyse=True, oracle=True),
}

WITH = Metric("pretrain.proxy_accuracy", 100.0)
WITHOUT = Metric("pretrain.proxy_accuracy_real", 100.0)

CURVES = {
    "false_negatives": "same class among the hardest negatives, %",
    "proxy_accuracy": "proxy-task accuracy, all negatives, %",
    "proxy_accuracy_real": "proxy-task accuracy, queue only, %",
    "false_pairs_definite": "pair-mixed points with both parents of the query's class, %",
    "false_pairs_partial": "pair-mixed points with at least one parent of the query's class, %",
    "probability_of_rank_1": "matching probability of the hardest negative, %",
    "probability_of_rank_16": "matching probability of the 16th negative, %",
}


def draw(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Draw each curve over epochs, one line for each row."""
    labels = {compared.row.key: compared.row.label for compared in comparison.rows}
    for name, meaning in CURVES.items():
        curves = {
            labels[row]: {
                seed: [(line["epoch"], 100.0 * line[name]) for line in own.epochs if name in line]
                for seed, own in by_seed.items()
            }
            for row, by_seed in histories.items()
        }
        curves = {label: seeds for label, seeds in curves.items() if any(seeds.values())}
        if curves:
            title = f"figure 2, {comparison.scale} scale"
            figure = draw_curves(curves, title=title, y_label=meaning)
            drawing.save(figure, folder / f"{name}.svg")


TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(imagenet100(method), ()) for name, method in ROWS.items()},
    columns={
        "proxy_without": WITHOUT,
        "proxy_gap": Difference(WITHOUT, WITH),
        "fn_top1024": Metric("pretrain.false_negatives", 100.0),
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
