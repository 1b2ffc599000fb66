"""Revisiting self-supervised learning, main Table 2: the best encoder of each task, by SGD.

    nox -s reproduce-revisiting_ssl-main_table2
    nox -s reproduce-revisiting_ssl-main_table2 -- --scale paper --data /imagenet --places /places

Evaluates four of the 66 encoders of Tables 2 to 4 by a linear probe that is trained by SGD for 520
epochs, on the official test images. The other rows are cited. Expected at paper scale: 55.4
(Rotation), 46.0 (Exemplar), 51.4 (Relative Patch Location), 44.6 (Jigsaw) on ImageNet.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.revisiting_ssl.recipes import BEST, IMAGENET_IMAGES, PLACES, best, sgd
from reproductions.revisiting_ssl.scales import proxy, smoke
from retable.reproduce import Metric, Table, TableRow, main

TABLE = Table(
    script=Path(__file__),
    rows={
        task: TableRow(best(task), (sgd(task, "imagenet"), sgd(task, "places", source="places")))
        for task in BEST
    },
    columns={
        "imagenet_top1": Metric("imagenet.top1"),
        "imagenet_top5": Metric("imagenet.top5"),
        "places205_top1": Metric("places.top1"),
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET_IMAGES,
    other_data=PLACES,
    facts=FACTS,
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
