"""Shrink a paper's recipe to the built-in images and keep its proportions.

Common to all papers are data, views, length and batch. The paper's scripts shrink the settings of
their methods, for instance a queue or a warm-up of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from retable.encoders import ResNetRecipe
from retable.methods.method import MethodRecipe
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe
from retable.views import ViewRecipe


@dataclass(frozen=True)
class SmallScale:
    """The data set, its number of classes, and the size that recipes are shrunk to."""

    data: str
    classes: int
    batch: int
    probe_epochs: int
    encoder: ResNetRecipe = field(default_factory=lambda: ResNetRecipe("small_resnet8"))


PROXY = SmallScale(
    "shapes?count=8000&test_count=2000&size=32&classes=64&rho=0.7",
    classes=64,
    batch=64,
    probe_epochs=12,
)
"""64 classes, 8,000 images of 32 px, an encoder of 77k weights."""

SMOKE = SmallScale(
    "shapes?count=512&test_count=256&size=32&classes=16&rho=0.7",
    classes=16,
    batch=64,
    probe_epochs=2,
)
"""Takes seconds and only checks that the code runs."""


def shrink_pretraining(
    recipe: PretrainRecipe, method: MethodRecipe, epochs: int, scale: SmallScale
) -> PretrainRecipe:
    """Return the recipe on small images, for ``epochs`` and with the given, shrunk ``method``.

    Milestones and warm-up keep their share of the run, and batch-norm groups theirs of the batch,
    but for at most four groups: a group of fewer than 16 images would measure noise.
    """
    groups = 1 if recipe.bn_group is None else min(4, recipe.batch // recipe.bn_group)
    return replace(
        recipe,
        method=method,
        data=scale.data,
        views=tuple(shrink_view(view) for view in recipe.views),
        encoder=scale.encoder,
        optimizer=shrink_optimizer(recipe.optimizer, epochs / recipe.epochs),
        epochs=epochs,
        batch=scale.batch,
        bn_group=None if recipe.bn_group is None else scale.batch // groups,
    )


def shrink_optimizer(optimizer: OptimizerRecipe, share: float) -> OptimizerRecipe:
    """Return the optimizer with its schedule at ``share`` of its length."""
    full = optimizer.schedule
    milestones = tuple(sorted({max(1, round(m * share)) for m in full.milestones}))
    warmup = full.warmup_epochs * share
    return replace(optimizer, schedule=replace(full, milestones=milestones, warmup_epochs=warmup))


def shrink_view(view: ViewRecipe) -> ViewRecipe:
    """Return a view of 32 px; a contrastive one without the shortcut of colour.

    Six colours would tell the built-in images apart: grey with probability 0.5, crops of at least
    half of the image and half the blur leave the outline as the easier way.
    """
    view = replace(view, size=32)
    if view.gray_probability == 0:
        return view
    view = replace(view, crop_scale=(0.5, 1.0), gray_probability=0.5)
    return replace(view, blur_sigma=(0.1, 1.0), blur_kernel=None)
