"""Feature transformation, Table 5: MoCo with and without projection to the unit sphere.

    nox -s reproduce-feature_transform-table5
    nox -s reproduce-feature_transform-table5 -- --scale paper --data imagefolder:/data/imagenet

Without the projection the training is expected to collapse; such a run ends with a diagnosis, and
its cell says `collapse`. The printed learning rate, "0.03/10", is read as 0.003; the other reading,
0.03, has its own rows. Proxy scale: 6 trainings, 14 TFLOP. Expected at paper scale: 65.0 and 63.1
with the projection.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.scales import chance
from reproductions.feature_transform.recipes import (
    IMAGENET100_IMAGES,
    LINEAR_R18,
    moco,
    resnet18,
    transform,
)
from reproductions.feature_transform.recorded_curves import draw_score_curves
from reproductions.feature_transform.scales import proxy, smoke
from retable.reproduce import CollapseCriterion, Metric, Table, TableRow, main
from retable.reproduce.shrinking import PROXY, SMOKE
from retable.train.recipe import PretrainRecipe

NOTHING = transform(positives=False, negatives="none")


def off_sphere(temperature: float, lr: float) -> PretrainRecipe:
    """Return MoCo that compares features by inner products."""
    method = moco(NOTHING, temperature=temperature, unit_sphere=False)
    return resnet18(method, epochs=200, lr=lr)


RECIPES = {
    "unit_t007": resnet18(moco(temperature=0.07), epochs=200),
    "unit_t02": resnet18(moco(temperature=0.2), epochs=200),
    "nounit_t007": off_sphere(0.07, 0.003),
    "nounit_t02": off_sphere(0.2, 0.003),
    "nounit_t007_lr003": off_sphere(0.07, 0.03),
    "nounit_t02_lr003": off_sphere(0.2, 0.03),
}

TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(recipe, (LINEAR_R18,)) for name, recipe in RECIPES.items()},
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
    collapse=CollapseCriterion(
        rows=tuple(RECIPES),
        columns=("top1",),
        chance=chance(PROXY, SMOKE),
    ),
    plots=(draw_score_curves,),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
