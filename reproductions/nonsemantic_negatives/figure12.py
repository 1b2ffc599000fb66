"""Non-semantic negatives, Figure 12: cosines with negatives, by what a model was trained with.

    nox -s reproduce-nonsemantic_negatives-figure12

Three trainings of Table 1, without negatives, with textures and with patches, and histograms of the
cosines of queries with positives, other images, patches and textures. Expected at paper scale: the
mean cosine with patches falls from 0.40 to 0.37 and 0.33.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nonsemantic_negatives.cosines import Cosines
from nonsemantic_negatives.textured_shapes import LAYER
from reproductions.baselines import FACTS
from reproductions.baselines.recipes import IMAGENET100_IMAGES
from reproductions.nonsemantic_negatives.histogram_curves import draw_histograms
from reproductions.nonsemantic_negatives.recipes import (
    baseline,
    training_views,
    with_patches,
    with_textures,
)
from reproductions.nonsemantic_negatives.scales import proxy, smoke
from retable.reproduce import Metric, Table, TableRow, main

COSINES = Cosines(training_views(), texture=LAYER)

TABLE = Table(
    script=Path(__file__),
    rows={
        "moco_v2": TableRow(baseline(), (COSINES,)),
        "texture_a2": TableRow(with_textures(2.0), (COSINES,)),
        "patch_a2": TableRow(with_patches(2.0), (COSINES,)),
    },
    columns={
        "cos_patch_ns": Metric("cosines.patch_mean"),
        "cos_texture_ns": Metric("cosines.texture_mean"),
        "cos_positive": Metric("cosines.positive_mean"),
        "margin_patch": Metric("cosines.margin_patch"),
        "margin_texture": Metric("cosines.margin_texture"),
        "outline_factor": Metric("outline_factor.top1"),
        "texture_factor": Metric("texture_factor.top1"),
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    subset="imagenet100",
    facts=FACTS,
    plots=(draw_histograms,),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
