r"""Feature transformation, main paper: MoCo v1 against the momentum of its key encoder.

    nox -s reproduce-feature_transform-main_momentum
    nox -s reproduce-feature_transform-main_momentum -- --scale paper \
        --data imagefolder:/data/imagenet

Draws the score curves, and the gradient landscapes of the supplement's Figure 2, for which two
momenta are run that the notebook's legend does not have. The run with m = 0.99 is Table 2's. Proxy
scale: 6 trainings, 6.8 TFLOP. Expected at paper scale: the best momentum is 0.99 (56.2), 31.2
without movement (m = 1).
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.feature_transform.recipes import IMAGENET100_IMAGES, LINEAR_R18, moco, resnet18
from reproductions.feature_transform.recorded_curves import (
    draw_gradient_landscapes,
    draw_score_curves,
)
from reproductions.feature_transform.scales import proxy, smoke
from retable.reproduce import Metric, Table, TableRow, main

MOMENTA = {"m_1": 1.0, "m_0999": 0.999, "m_099": 0.99, "m_09": 0.9, "m_06": 0.6, "m_05": 0.5}

TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(resnet18(moco(momentum=m)), (LINEAR_R18,)) for name, m in MOMENTA.items()},
    columns={
        "top1": Metric("linear.top1"),
        "positive_mean": Metric("pretrain.positive_mean"),
        "negative_mean": Metric("pretrain.negative_mean"),
        "negative_variance": Metric("pretrain.negative_variance", 1000.0),
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    facts=FACTS,
    subset="imagenet100",
    plots=(draw_score_curves, draw_gradient_landscapes),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
