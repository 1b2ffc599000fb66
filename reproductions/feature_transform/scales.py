"""Feature transformation's tables at proxy and smoke scale."""

from __future__ import annotations

from dataclasses import replace

from feature_transform import MoCoFTRecipe
from reproductions.baselines.scales import shrink_moco, shrink_row
from reproductions.feature_transform.recipes import MOCO_V1_VIEW
from retable import views
from retable.encoders import ResNetRecipe
from retable.methods import MethodRecipe, MoCoRecipe
from retable.reproduce.shrinking import PROXY, SMOKE, SmallScale
from retable.reproduce.table import TableRow


def proxy(row: TableRow) -> TableRow:
    """Shrink a row as the baselines; the start epoch keeps its share of the run.

    "Epoch 2" stays after the epoch in which the queue has been filled with keys: 0.13 of 100 epochs
    in the paper, 0.13 of 20 here.
    """
    return shrink(row, PROXY)


def smoke(row: TableRow) -> TableRow:
    """Shrink a row to seconds: two epochs on 512 images, to check that the code runs."""
    return shrink(row, SMOKE)


def shrink(row: TableRow, scale: SmallScale) -> TableRow:
    """Shrink a row; where ResNet-50 becomes a small encoder, ResNet-18 becomes a narrower one.

    MoCo v1's views are in MoCo's own order, grey before the jitter. Half of the small views are
    grey; with the paper's order, the baseline's negatives keep a mean cosine of 0.25, where the
    paper has -0.2 to 0 and MoCo's order gives 0.07.
    """
    if row.pretrain.encoder == ResNetRecipe("resnet18"):
        scale = replace(scale, encoder=replace(scale.encoder, width=0.75))
    in_mocos_order = tuple(
        views.moco_v1(224) if view == MOCO_V1_VIEW else view for view in row.pretrain.views
    )
    row = replace(row, pretrain=replace(row.pretrain, views=in_mocos_order))
    return shrink_row(row, scale, shrink_method)


def shrink_method(method: MethodRecipe, scale: SmallScale, epochs: int) -> MethodRecipe:
    """Return a method with the scale's queue; the paper compares momenta, and they stay."""
    if not isinstance(method, MoCoRecipe):
        return shrink_moco(method, scale, epochs)
    method = replace(method, queue=scale.queue)
    if not isinstance(method, MoCoFTRecipe):
        return method
    start = method.transform.start_epoch
    if start:
        filled = scale.queue / scale.images
        start = max(start * scale.epochs / 200, 1.25 * filled)
    transform = replace(method.transform, start_epoch=start, draw_group=scale.least_group)
    return replace(method, transform=transform)
