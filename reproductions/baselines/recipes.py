"""Recipes of methods that several papers compare with, at the scale of ImageNet-100.

Sources: the MoCo repository; torchvision's ImageNet reference; SimSiam's paper and code.
Values that none of them states for ImageNet-100 are decisions; comments name them.
"""

from __future__ import annotations

from dataclasses import replace

from retable import views
from retable.encoders import ResNetRecipe
from retable.evaluate.linear import LinearProbe
from retable.methods import BYOLRecipe, MoCoRecipe, SimSiamRecipe, SupervisedRecipe
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe
from retable.train.schedules import ScheduleRecipe

IMAGENET100_IMAGES = 126_689
IMAGENET1K_IMAGES = 1_281_167


def pretraining(method: MoCoRecipe, *, epochs: int, batch: int, version: int = 2) -> PretrainRecipe:
    """Return MoCo's pretraining recipe (MoCo repository, ``main_moco.py``) without data.

    Four GPUs share a batch (MoCHi, experiments on ImageNet-100), so that batch norm sees a quarter.
    Batch 128 with learning rate 0.03 on ImageNet-100 is a decision: published MoCo-v2 runs reach
    77.5 there and 67.5 with twice the batch, the paper's own baseline is 78.0.
    """
    view = views.moco_v2(224) if version == 2 else views.moco_v1(224)
    schedule = (
        ScheduleRecipe("cosine", per="epoch")
        if version == 2
        else ScheduleRecipe("step", milestones=(epochs * 3 // 5, epochs * 4 // 5), gamma=0.1)
    )
    return PretrainRecipe(
        method=method,
        data="",
        views=(view, view),
        encoder=ResNetRecipe("resnet50"),
        optimizer=OptimizerRecipe(lr=0.03, momentum=0.9, weight_decay=1e-4, schedule=schedule),
        epochs=epochs,
        batch=batch,
        bn_group=batch // 4,
    )


def imagenet100(method: MoCoRecipe, *, version: int = 2) -> PretrainRecipe:
    """Pretrain on ImageNet-100: 200 epochs, batch 128 on 4 GPUs."""
    return pretraining(method, epochs=200, batch=128, version=version)


def imagenet1k(method: MoCoRecipe, *, epochs: int) -> PretrainRecipe:
    """Pretrain on ImageNet-1K: batch 256 on 4 GPUs (MoCo repository), one run for each row."""
    return pretraining(method, epochs=epochs, batch=256)


def byol(method: BYOLRecipe, *, epochs: int, batch: int, lr: float) -> PretrainRecipe:
    """Return BYOL's pretraining recipe: LARS, warm-up of 10 epochs, batch norm of all images.

    ``lr`` is the rate of the whole batch. The rest is the official code's.
    """
    return PretrainRecipe(
        method=method,
        data="",
        views=views.byol(224),
        encoder=ResNetRecipe("resnet50"),
        optimizer=OptimizerRecipe(
            "lars",
            lr=lr,
            momentum=0.9,
            weight_decay=1e-6,
            exclude_bias_and_norm=True,
            schedule=ScheduleRecipe("cosine", warmup_epochs=10, per="step"),
        ),
        epochs=epochs,
        batch=batch,
        bn_group=batch,
    )


def supervised_bound(classes: int) -> PretrainRecipe:
    """Return cross-entropy training by torchvision's recipe; the paper's is unknown."""
    return PretrainRecipe(
        method=SupervisedRecipe(classes),
        data="",
        views=(views.crop_and_flip(224),),
        encoder=ResNetRecipe("resnet50"),
        optimizer=OptimizerRecipe(
            lr=0.1,
            momentum=0.9,
            weight_decay=1e-4,
            schedule=ScheduleRecipe("step", milestones=(30, 60, 80), gamma=0.1),
        ),
        epochs=90,
        batch=256,
    )


LINEAR_100 = LinearProbe(train_view=views.crop_and_flip(224), test_view=views.center(224, 256))
"""Linear evaluation on ImageNet-100: learning rate 10, 60 epochs, x0.1 at 30, 40, 50."""

LINEAR_1K = replace(LINEAR_100, lr=30.0, batch=256, epochs=100, milestones=(60, 80))
"""Linear evaluation on ImageNet-1K (MoCo repository, ``main_lincls.py``)."""


def simsiam(method: SimSiamRecipe, *, epochs: int, batch: int) -> PretrainRecipe:
    """Return SimSiam's recipe (Chen & He 2021, official code), with a constant predictor's rate.

    Its rate is 0.05 x batch / 256, its batch norm synchronised; the paper's batch is 512.
    """
    view = views.moco_v2(224)
    return PretrainRecipe(
        method=method,
        data="",
        views=(view, view),
        encoder=ResNetRecipe("resnet50", zero_init_residual=True),
        optimizer=OptimizerRecipe(
            lr=0.05 * batch / 256,
            momentum=0.9,
            weight_decay=1e-4,
            constant_rate=("predictor",),
            schedule=ScheduleRecipe("cosine", per="epoch"),
        ),
        epochs=epochs,
        batch=batch,
        bn_group=batch,
    )
