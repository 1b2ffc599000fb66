r"""Non-semantic negatives, Table 1: ImageNet-100 and its out-of-domain versions.

    nox -s reproduce-nonsemantic_negatives-table1
    nox -s reproduce-nonsemantic_negatives-table1 -- --scale paper \
        --data 'imagefolder:/imagenet?companion=/imagenet-texture' --ood c=/imagenet-c \
        --ood sketch=/imagenet-sketch --ood stylized=/stylized --ood r=/imagenet-r

MoCo v2 with texture-based and with patch-based negatives. ImageNet-C is plain top-1 accuracy over
15 kinds and 5 severities, as in Table 5, and ImageNet-R is not masked. Expected at paper scale:
patches with alpha 2 add 1.5 points in domain and 1.2 to 3.5 out of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.recipes import IMAGENET100_IMAGES
from reproductions.nonsemantic_negatives.recipes import (
    ROBUSTNESS,
    baseline,
    with_patches,
    with_textures,
)
from reproductions.nonsemantic_negatives.scales import proxy, smoke
from retable.reproduce import Metric, Table, TableRow, main

TRAININGS = {
    "moco_v2_k16384": baseline(),
    "texture_a2_k16384": with_textures(2.0),
    "patch_a2_k16384": with_patches(2.0),
    "patch_a3_k16384": with_patches(3.0),
    "moco_v2_k8192": baseline(8192),
    "patch_a2_k8192": with_patches(2.0, 8192),
}

ROWS = {name: TableRow(recipe, (ROBUSTNESS,)) for name, recipe in TRAININGS.items()}

TABLE = Table(
    script=Path(__file__),
    rows=ROWS,
    columns={
        "imagenet100": Metric("linear.top1", otherwise="ood.clean"),
        "imagenet_c": Metric("ood.c"),
        "imagenet_s": Metric("ood.sketch"),
        "stylized": Metric("ood.stylized"),
        "imagenet_r": Metric("ood.r"),
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    subset="imagenet100",
    facts=FACTS,
    check_rows=("moco_v2_k16384", "patch_a2_k16384"),
    first_rows=("moco_v2_k16384", "texture_a2_k16384", "patch_a2_k16384", "patch_a3_k16384"),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
