"""Non-semantic negatives, Figure 13: cosines with patches as alpha grows from 0 to 5.

    nox -s reproduce-nonsemantic_negatives-figure13

MoCo v2 with patch-based negatives of six strengths; alpha 0 is MoCo v2 itself. The paper prints the
two ends, 0.40 and 0.12; the values between them are ours. The margin is what the mean cosine with
the positive has above that with the negatives; the share is the negatives' weight in the gradient.
At proxy scale linear probes ask the encoders for the outline and for the texture of images in which
neither tells the other, and trainings with the two largest alphas may collapse: their negatives
outweigh all others.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.recipes import IMAGENET100_IMAGES
from reproductions.baselines.scales import chance
from reproductions.nonsemantic_negatives.figure12 import COSINES
from reproductions.nonsemantic_negatives.histogram_curves import draw_histograms
from reproductions.nonsemantic_negatives.recipes import ROBUSTNESS, baseline, with_patches
from reproductions.nonsemantic_negatives.scales import PROXY, SMOKE, proxy, smoke
from retable.evaluate.ood_sets import OodSet
from retable.reproduce import CollapseCriterion, Metric, Table, TableRow, main

SHAPE_BIAS = replace(ROBUSTNESS, sets=(OodSet("cue_conflict"),))

TRAININGS = {"alpha_0": baseline()} | {
    f"alpha_{alpha}": with_patches(float(alpha)) for alpha in range(1, 6)
}

COLUMNS = {
    "cos_patch_ns": Metric("cosines.patch_mean"),
    "margin_patch": Metric("cosines.margin_patch"),
    "cos_texture_ns": Metric("cosines.texture_mean"),
    "cos_positive": Metric("cosines.positive_mean"),
    "share": Metric("pretrain.nonsemantic_share", 100.0),
    "imagenet100": Metric("linear.top1", otherwise="ood.clean"),
    "shape_bias": Metric("ood.cue_conflict_shape_bias"),
    "outline_factor": Metric("outline_factor.top1"),
    "texture_factor": Metric("texture_factor.top1"),
}

TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(recipe, (SHAPE_BIAS, COSINES)) for name, recipe in TRAININGS.items()},
    columns=COLUMNS,
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    subset="imagenet100",
    facts=FACTS,
    collapse=CollapseCriterion(
        rows=("alpha_4", "alpha_5"),
        columns=tuple(COLUMNS),
        chance=chance(PROXY, SMOKE),
    ),
    check_rows=("alpha_0", "alpha_2"),
    first_rows=("alpha_0", "alpha_2", "alpha_3", "alpha_5"),
    plots=(draw_histograms,),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
