"""Recipes of non-semantic negatives at the paper's scale, ImageNet-100.

Sources: the supplement (section C.1) and the first README of the official repository: MoCo v2 with
learning rate 0.03, batch 128, 200 epochs, as the baselines have it. BYOL's epochs, warm-up and
momentum are decisions: the supplement states LARS, learning rate 4.8, batch 1024 and weight decay
1e-6.
"""

from __future__ import annotations

from dataclasses import replace

from nonsemantic_negatives import MoCoNSRecipe, PatchNegatives, TextureNegatives, textured_shapes
from reproductions.baselines.recipes import LINEAR_100, byol, imagenet100
from retable import views
from retable.evaluate.ood import OutOfDistribution
from retable.evaluate.ood_sets import OodSet, SetName
from retable.methods import BYOLRecipe, MoCoRecipe, moco_v2
from retable.train.recipe import PretrainRecipe

QUEUE = 16384

SHIFTED: tuple[SetName, ...] = ("c", "sketch", "stylized", "r", "texture", "cue_conflict")

ROBUSTNESS = OutOfDistribution(LINEAR_100, sets=tuple(map(OodSet, SHIFTED)))
"""The linear classifier of ImageNet-100, applied unchanged to the shifted sets."""


def baseline(queue: int = QUEUE) -> PretrainRecipe:
    """Return MoCo v2 with a queue of so many keys."""
    return imagenet100(moco_v2(queue=queue))


def with_patches(alpha: float, queue: int = QUEUE, **patches: object) -> PretrainRecipe:
    """Return MoCo v2 with patch-based negatives; ``patches`` are fields of `PatchNegatives`."""
    negatives = PatchNegatives(**patches)  # type: ignore[arg-type]
    return imagenet100(MoCoNSRecipe(queue=queue, alpha=alpha, negatives=negatives))


def with_textures(alpha: float, queue: int = QUEUE) -> PretrainRecipe:
    """Return MoCo v2 with texture-based negatives: twins of the images, cut like the queries."""
    method = MoCoNSRecipe(queue=queue, alpha=alpha, negatives=TextureNegatives())
    recipe = imagenet100(method)
    query, key = recipe.views
    return replace(recipe, views=(replace(query, layers=(textured_shapes.LAYER,)), key))


def training_views() -> tuple[views.ViewRecipe, views.ViewRecipe]:
    """Return the views of queries and keys."""
    query, key = baseline().views
    return query, key


def with_negatives(method: BYOLRecipe) -> PretrainRecipe:
    """Return BYOL on ImageNet-100 (supplement, section C.1): learning rate 4.8, batch 1024.

    4.8 is BYOL's rate for a batch of 4096; for 1024 it would be 1.2, which ``--set
    pretrain.optimizer.lr=1.2`` gives. Decisions: 200 epochs, 10 of them warm-up.
    """
    return byol(method, epochs=200, batch=1024, lr=4.8)


def ifm(method: MoCoRecipe) -> PretrainRecipe:
    """Return the second recipe of the official README: rate 0.8, batch 512, momentum 0.99.

    Its hyper-parameters are those of the repository joshr17/IFM.
    """
    recipe = imagenet100(replace(method, momentum=0.99))
    optimizer = replace(recipe.optimizer, lr=0.8)
    return replace(recipe, optimizer=optimizer, batch=512, bn_group=128)
