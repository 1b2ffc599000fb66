"""MoCo and the other baselines at proxy and smoke scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from retable.methods import (
    BYOLRecipe,
    MethodRecipe,
    MoCoRecipe,
    SimSiamRecipe,
    SupervisedRecipe,
)
from retable.reproduce.shrinking import SmallScale, shrink_evaluation, shrink_pretraining
from retable.reproduce.table import TableRow
from retable.train.optim import OptimizerRecipe

ShrinkMethod = Callable[[MethodRecipe, SmallScale, int], MethodRecipe]
"""Returns a method for a scale and a number of epochs."""


def shrink_moco(method: MethodRecipe, scale: SmallScale, epochs: int) -> MethodRecipe:
    """Return MoCo with a queue of the scale, and supervised training with its classes.

    K is an eighth of the images (ImageNet-100 with 16,384 keys: 12.9 %), whatever the paper's. The
    key encoder's momentum is 0.99, since a run has a hundredth of the steps; another one than the
    usual 0.999 stays.
    """
    if isinstance(method, MoCoRecipe):
        momentum = 0.99 if method.momentum == MoCoRecipe.momentum else method.momentum
        return replace(method, queue=scale.queue, momentum=momentum)
    if isinstance(method, SupervisedRecipe):
        return replace(method, classes=scale.classes)
    return small_heads(method)


def chance(proxy: SmallScale, smoke: SmallScale) -> dict[str, float]:
    """Return the accuracy of guessing by scale, in percent; at the paper's that of ImageNet-100."""
    return {"paper": 1.0, "proxy": 100 / proxy.classes, "smoke": 100 / smoke.classes}


def small_heads(method: MethodRecipe) -> MethodRecipe:
    """Return SimSiam and BYOL with heads of an eighth, for the few features of small encoders."""
    if isinstance(method, SimSiamRecipe):
        return replace(method, dim=256, hidden_dim=256, predictor_hidden_dim=64)
    if isinstance(method, BYOLRecipe):
        return replace(method, dim=64, hidden_dim=256)
    return method


def small_optimizer(optimizer: OptimizerRecipe, rate: float) -> OptimizerRecipe:
    """Return the optimizer at ``rate`` times its rate; LARS becomes SGD with MoCo's rate.

    LARS and a warm-up of a few epochs would be tuned to nothing.
    """
    if optimizer.name == "sgd":
        return replace(optimizer, lr=rate * optimizer.lr)
    schedule = replace(optimizer.schedule, warmup_epochs=0.0)
    constant = optimizer.constant_rate
    return OptimizerRecipe(lr=rate * 0.03, schedule=schedule, constant_rate=constant)


def shrink_row(row: TableRow, scale: SmallScale, shrink: ShrinkMethod = shrink_moco) -> TableRow:
    """Return the row on small images.

    Its length is the scale's share of a paper's 200 epochs, and supervised training as long.
    """
    recipe = row.pretrain
    supervised = isinstance(recipe.method, SupervisedRecipe)
    epochs = max(2, round(scale.epochs * (1.0 if supervised else recipe.epochs / 200)))
    small = shrink_pretraining(recipe, shrink(recipe.method, scale, epochs), epochs, scale)
    if not supervised:
        small = replace(small, optimizer=small_optimizer(small.optimizer, scale.rate))
    evaluations = tuple(shrink_evaluation(one, scale) for one in row.evaluations)
    return replace(row, pretrain=small, evaluations=evaluations)
