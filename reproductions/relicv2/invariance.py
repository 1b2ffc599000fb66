r"""ReLICv2, invariance: gain from views and masks with and without its term (section 3.1).

    nox -s reproduce-relicv2-invariance
    nox -s reproduce-relicv2-invariance -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

100 epochs, each method on two large views without masks, and on four large and two small ones with
masks. The paper's numbers are not known. Proxy scale: 6 trainings, 18 TFLOP. Expected at paper
scale: ReLICv2 gains much more than SimCLR.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from relicv2 import ReLICv2Recipe
from relicv2.multi_view_simclr import MultiViewSimCLRRecipe
from reproductions.relicv2.imagenet_table import imagenet_table
from reproductions.relicv2.recipes import relicv2
from retable.reproduce import Difference, Metric, main
from retable.train.recipe import PretrainRecipe

VIEWS = {"plain": (2, 0, 0.0), "full": (4, 2, 0.1)}
"""Numbers of large and small views, and the probability of masks."""


def pair(invariance_scale: float = ReLICv2Recipe.invariance_scale) -> dict[str, PretrainRecipe]:
    """Return ReLICv2's two trainings."""
    return {
        name: relicv2(
            100,
            large=large,
            small=small,
            mask_probability=probability,
            invariance_scale=invariance_scale,
        )
        for name, (large, small, probability) in VIEWS.items()
    }


def simclr_pair() -> dict[str, PretrainRecipe]:
    """Return SimCLR's two trainings, on the same views."""
    return {
        name: replace(recipe, method=MultiViewSimCLRRecipe(large=VIEWS[name][0]))
        for name, recipe in pair().items()
    }


PLAIN, FULL = (Metric("linear.top1", variant=variant) for variant in VIEWS)

TABLE = imagenet_table(
    __file__,
    {"relicv2": pair(), "contrastive": pair(invariance_scale=0.0), "simclr": simclr_pair()},
    {"plain": PLAIN, "full": FULL, "gain": Difference(FULL, PLAIN)},
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
