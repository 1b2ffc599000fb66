"""Feature transformation's recipes at the paper's scale.

Sources: the supplement (sections B to G) for recipes and tables; the official code for the
granularity of weights; the MoCo repository for what the paper takes over. Values that none of them
states are decisions; comments name them.
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
from retable.reproduce.table import TableColumn
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe
from retable.train.schedules import ScheduleRecipe

IMAGENET100_IMAGES = 126_689
IMAGENET1K_IMAGES = 1_281_167

BOTH = TransformRecipe()
"""Positive extrapolation and negative interpolation, not re-normalised, from the first step on."""


MOCO_V1_VIEW = replace(views.moco_v1(224), jitter_position="before_gray")
"""MoCo v1's view with the jitter first, as the paper lists it and its code has it.

MoCo's own code makes views grey before the jitter.
"""


def transform(
    positives: bool = True, negatives: str = "interpolate", **rest: Any
) -> TransformRecipe:
    """Return a transformation of positives, negatives or both; alpha 2.0 and 1.6 (Table 7)."""
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

    Version 2 of MoCo has its own views and a cosine schedule. ``gpus`` decides the batch-norm group
    and the rows that share a weight, as in the official code.
    """
    view = views.moco_v2(224) if version == 2 else MOCO_V1_VIEW
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
    """Let ``rows`` queries share a weight, as those of a GPU do in the official code."""
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
    batch=256, train_view=views.crop_and_flip(224, (0.2, 1.0)), test_view=views.center(224, 256)
)
"""The crops' scale is the released code's, MoCo's is (0.08, 1). Batch 256 is MoCo's."""
LINEAR_R18 = replace(_PROBE, lr=10.0, epochs=100, milestones=(60, 80))
"""Linear probe of section B.2."""
LINEAR_R50 = replace(_PROBE, lr=10.0, epochs=60, milestones=(30, 40, 50))
"""Linear probe of section B.3."""
LINEAR_1K = replace(_PROBE, lr=30.0, epochs=100, milestones=(60, 80))
"""Linear probe of section B.4."""
LINEAR_LARS = LinearProbe(
    train_view=views.crop_and_flip(224),
    test_view=views.center(224, 256),
    optimizer="lars",
    schedule="cosine",
    milestones=(),
    batch=4096,
    lr=1.6,
    epochs=90,
)
"""SimSiam's linear probe, with its crops; the paper's baseline equals a result obtained with it."""

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
"""Statistics of raw and transformed scores over the last epoch."""
