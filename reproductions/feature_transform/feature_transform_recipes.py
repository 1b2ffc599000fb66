"""The paper's recipes at its own scale, and how its tables are shrunk.

Sources: the supplement (sections B to G) for recipes and tables; the official code for the
granularity of weights; the MoCo repository for what the paper takes over. Values that none of them
states are decisions, named where they stand.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from feature_transform import MoCoFTRecipe, TransformRecipe
from retable import views
from retable.encoders import ResNetRecipe
from retable.evaluate.linear import LinearProbe
from retable.methods import MethodRecipe, MoCoRecipe
from retable.reproduce import Difference, Metric, Ratio
from retable.reproduce.shrinking import (
    PROXY,
    SMOKE,
    SmallScale,
    shrink_pretraining,
)
from retable.reproduce.table import TableColumn, TableRow
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe
from retable.train.schedules import ScheduleRecipe

IMAGENET100_IMAGES = 126_689
IMAGENET1K_IMAGES = 1_281_167

PROXY_EPOCHS = {100: 5, 200: 10}
"""Small runs are a twentieth as long as the paper's."""
PROXY_QUEUE = 1024

BOTH = TransformRecipe()
"""Positive extrapolation and negative interpolation, not re-normalised, from the first step on."""


def transform(
    positives: bool = True, negatives: str = "interpolate", **rest: Any
) -> TransformRecipe:
    """Return a transformation by what it does to either side; alpha 2.0 and 1.6 (table 7)."""
    return TransformRecipe("extrapolate" if positives else "none", negatives, **rest)  # type: ignore[arg-type]


def moco(transformed: TransformRecipe | None = None, **changes: Any) -> MoCoRecipe:
    """Return MoCo version 1 with a momentum of 0.99 (section B.3), transformed or not.

    Without a transformation it is MoCo itself, so that every table shares the same baseline run.
    """
    changes = {"momentum": 0.99, **changes}
    if transformed is None:
        return MoCoRecipe(**changes)
    return MoCoFTRecipe(transform=transformed, **changes)


def pretraining(
    method: MethodRecipe,
    *,
    encoder: str,
    epochs: int,
    gpus: int,
    version: int = 1,
    lr: float = 0.03,
) -> PretrainRecipe:
    """Return the paper's pretraining: batch 256, step schedule at 60 % and 80 % (section B).

    Version 2 of MoCo has its own views and a cosine schedule. What the official code leaves to the
    number of GPUs, batch norm and the rows that share a weight, follows from ``gpus``.
    """
    view = views.moco_v2(224) if version == 2 else views.moco_v1(224)
    schedule = (
        ScheduleRecipe("cosine", per="epoch")
        if version == 2
        else ScheduleRecipe("step", milestones=(epochs * 3 // 5, epochs * 4 // 5), gamma=0.1)
    )
    return PretrainRecipe(
        method=_drawn_for_each_gpu(method, 256 // gpus),
        data="",
        views=(view, view),
        encoder=ResNetRecipe(encoder),
        optimizer=OptimizerRecipe(lr=lr, momentum=0.9, weight_decay=1e-4, schedule=schedule),
        epochs=epochs,
        batch=256,
        bn_group=256 // gpus,
    )


def _drawn_for_each_gpu(method: MethodRecipe, rows: int) -> MethodRecipe:
    """Let ``rows`` queries share a draw, as those of a GPU do in the official code."""
    if not isinstance(method, MoCoFTRecipe):
        return method
    return replace(method, transform=replace(method.transform, draw_group=rows))


def resnet18(method: MethodRecipe, *, epochs: int = 100, lr: float = 0.03) -> PretrainRecipe:
    """ResNet-18 on ImageNet-100, 4 GPUs, 100 epochs (section B.2); table 5 has 200."""
    return pretraining(method, encoder="resnet18", epochs=epochs, gpus=4, lr=lr)


def resnet50(method: MethodRecipe) -> PretrainRecipe:
    """ResNet-50 on ImageNet-100, 8 GPUs, 200 epochs (section B.3)."""
    return pretraining(method, encoder="resnet50", epochs=200, gpus=8)


def imagenet1k(method: MethodRecipe, *, version: int) -> PretrainRecipe:
    """ResNet-50 on ImageNet-1K, 8 GPUs, 200 epochs, momentum 0.999 (section B.4)."""
    return pretraining(method, encoder="resnet50", epochs=200, gpus=8, version=version)


_V1: dict[str, Any] = {"momentum": 0.999}
_V2: dict[str, Any] = {**_V1, "head": "mlp", "temperature": 0.2}

MODELS = {
    "moco_v1": imagenet1k(moco(**_V1), version=1),
    "moco_v1_ft": imagenet1k(moco(BOTH, **_V1), version=1),
    "moco_v2": imagenet1k(moco(**_V2), version=2),
    "moco_v2_ft": imagenet1k(moco(BOTH, **_V2), version=2),
}
"""The backbones that were released and that Table 1 fine-tunes."""

_PROBE = LinearProbe(
    batch=256, train_view=views.crop_and_flip(224), test_view=views.center(224, 256)
)
LINEAR_R18 = replace(_PROBE, lr=10.0, epochs=100, milestones=(60, 80))
"""Linear probe of section B.2; crops of torchvision's scale and batch 256 are MoCo's."""
LINEAR_R50 = replace(_PROBE, lr=10.0, epochs=60, milestones=(30, 40, 50))
"""Linear probe of section B.3."""
LINEAR_1K = replace(_PROBE, lr=30.0, epochs=100, milestones=(60, 80))
"""Linear probe of section B.4."""
LINEAR_LARS = replace(
    _PROBE, optimizer="lars", schedule="cosine", milestones=(), batch=4096, lr=1.6, epochs=90
)
"""SimSiam's own linear probe: the paper's baseline equals a result that was made with it."""

SCORES: dict[str, TableColumn] = {
    "positive_mean": Metric("pretrain.positive_mean"),
    "negative_mean": Metric("pretrain.negative_mean"),
    "negative_variance": Metric("pretrain.negative_variance", 1000.0),
    "positive_drop": Difference(
        Metric("pretrain.transformed_positive_mean"), Metric("pretrain.positive_mean")
    ),
    "negative_shift": Difference(
        Metric("pretrain.transformed_negative_mean"), Metric("pretrain.negative_mean")
    ),
    "variance_ratio": Ratio(
        Metric("pretrain.transformed_negative_variance"), Metric("pretrain.negative_variance")
    ),
}
"""What the transformation does to scores, over the last epoch: it sees what accuracy does not."""


def proxy(row: TableRow) -> TableRow:
    """Shrink a row to the built-in images: a twentieth of the epochs, K = 1024 of 8,000 images.

    ResNet-50 becomes the small encoder, ResNet-18 one of three quarters of its width. The start
    epoch keeps its share of the run, but "epoch 2", which is where the queue has been filled with
    keys, stays behind that: the paper's queue takes 0.52 of 100 epochs, here 0.13 of 5. The
    learning rate is doubled, since 1,250 steps are a hundredth of the paper's.
    """
    return at_twice_the_rate(shrink(row, PROXY, PROXY_EPOCHS[row.pretrain.epochs], PROXY_QUEUE))


def at_twice_the_rate(row: TableRow) -> TableRow:
    """Return the row with its pretraining's learning rate doubled."""
    faster = replace(row.pretrain.optimizer, lr=2 * row.pretrain.optimizer.lr)
    return replace(row, pretrain=replace(row.pretrain, optimizer=faster))


def smoke(row: TableRow) -> TableRow:
    """Shrink a row to seconds: the same code, two epochs on 512 images; claims nothing."""
    return shrink(row, SMOKE, 2, 256)


def shrink(row: TableRow, scale: SmallScale, epochs: int, queue: int) -> TableRow:
    """Return the row on small images with its proportions kept."""
    recipe = row.pretrain
    if recipe.encoder == ResNetRecipe("resnet18"):
        scale = replace(scale, encoder=replace(scale.encoder, width=0.75))
    images = int(scale.data.partition("count=")[2].partition("&")[0])
    method = shrink_method(
        recipe.method, queue, epochs / recipe.epochs, queue / images, scale.batch
    )
    return replace(
        row,
        pretrain=shrink_pretraining(recipe, method, epochs, scale),
        evaluations=tuple(e.shrunk(scale.probe_epochs) for e in row.evaluations),
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
