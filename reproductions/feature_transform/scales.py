"""Feature transformation's tables at proxy and smoke scale."""

from __future__ import annotations

from dataclasses import replace

from feature_transform import MoCoFTRecipe
from reproductions.feature_transform.recipes import MOCO_V1_VIEW
from retable import views
from retable.encoders import ResNetRecipe
from retable.methods import MethodRecipe, MoCoRecipe
from retable.reproduce.shrinking import (
    EARLIER_PROXY,
    SMOKE,
    SmallScale,
    shrink_evaluation,
    shrink_pretraining,
)
from retable.reproduce.table import TableRow

PROXY_EPOCHS = {100: 5, 200: 10}
"""Epochs of the paper -> epochs at proxy scale, a twentieth."""
PROXY_QUEUE = 1024


def proxy(row: TableRow) -> TableRow:
    """Shrink a row to the built-in images: a twentieth of the epochs, K = 1024 of 8,000 images.

    ResNet-50 becomes the small encoder, ResNet-18 one of three quarters of its width. The start
    epoch keeps its share of the run, but "epoch 2" stays after the epoch in which the queue has
    been
    filled with keys: 0.52 of 100 epochs in the paper, 0.13 of 5 here. The
    learning rate is doubled, since 1,250 steps are a hundredth of the paper's.
    """
    return at_twice_the_rate(
        shrink(row, EARLIER_PROXY, PROXY_EPOCHS[row.pretrain.epochs], PROXY_QUEUE)
    )


def at_twice_the_rate(row: TableRow) -> TableRow:
    """Return the row with its pretraining's learning rate doubled."""
    faster = replace(row.pretrain.optimizer, lr=2 * row.pretrain.optimizer.lr)
    return replace(row, pretrain=replace(row.pretrain, optimizer=faster))


def smoke(row: TableRow) -> TableRow:
    """Shrink a row to seconds: two epochs on 512 images, to check that the code runs."""
    return shrink(row, SMOKE, 2, 256)


def shrink(row: TableRow, scale: SmallScale, epochs: int, queue: int) -> TableRow:
    """Return the row on small images in the same proportions."""
    recipe = row.pretrain
    if recipe.encoder == ResNetRecipe("resnet18"):
        scale = replace(scale, encoder=replace(scale.encoder, width=0.75))
    # The numbers were recorded with views in MoCo's own order, grey before the jitter.
    recorded = views.moco_v1(224)
    recipe = replace(
        recipe, views=tuple(recorded if view == MOCO_V1_VIEW else view for view in recipe.views)
    )
    images = int(scale.data.partition("count=")[2].partition("&")[0])
    method = shrink_method(
        recipe.method, queue, epochs / recipe.epochs, queue / images, scale.batch
    )
    return replace(
        row,
        pretrain=shrink_pretraining(recipe, method, epochs, scale),
        evaluations=tuple(shrink_evaluation(e, scale) for e in row.evaluations),
    )


def shrink_method(
    method: MethodRecipe, queue: int, share: float, fill: float, batch: int
) -> MethodRecipe:
    """Return a method at ``share`` of the epochs; its queue fills in ``fill`` epochs."""
    if not isinstance(method, MoCoRecipe):
        return method
    method = replace(method, queue=queue)
    if not isinstance(method, MoCoFTRecipe):
        return method
    start = method.transform.start_epoch
    return replace(
        method,
        transform=replace(
            method.transform,
            start_epoch=max(start * share, 1.25 * fill) if start else 0.0,
            draw_group=batch // 4,
        ),
    )
