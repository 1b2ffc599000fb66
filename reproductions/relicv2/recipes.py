"""Recipes of ReLICv2 at the paper's scale, ImageNet.

Sources: sections 2 and 3, appendices B to G, and the presets of BYOL's official code, which the
paper builds on, where its own values are not known: learning rate, weight decay and the target's
momentum by the number of epochs. Temperature and scales are not known either; the defaults of
`ReLICv2Recipe` name where they come from, and ``--set pretrain.method.temperature=...`` changes
them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from relicv2 import ReLICv2Recipe, views
from retable.encoders import ResNetRecipe
from retable.evaluate.linear import LinearProbe
from retable.evaluate.ood import OutOfDistribution
from retable.evaluate.ood_sets import OodSet, SetName
from retable.methods import BYOLRecipe
from retable.nn.momentum import MomentumRecipe
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe
from retable.train.schedules import ScheduleRecipe
from retable.views import center, crop_and_flip

MASK = "mask"


class Preset(NamedTuple):
    """BYOL's values for a number of epochs: rate for 256 images, decay, the target's momentum."""

    rate: float
    decay: float
    momentum: float


PRESETS = {
    100: Preset(0.45, 1e-6, 0.99),
    300: Preset(0.3, 1e-6, 0.99),
    1000: Preset(0.2, 1.5e-6, 0.996),
}

ABLATIONS = 0.993
"""The target's momentum in tables 18 to 22, whose row 0.993 of table 22 is the same run."""

BATCH = 4096


def relicv2(
    epochs: int,
    *,
    large: int = 4,
    small: int = 2,
    mask_probability: float = 0.1,
    mask_change: tuple[str, float] | None = None,
    negatives: int = 10,
    momentum: float | None = None,
    constant: bool = False,
    encoder: ResNetRecipe | None = None,
    **method: object,
) -> PretrainRecipe:
    """Return the pretraining of ``epochs``, with BYOL's preset for it.

    ``momentum`` replaces the preset's; it rises to 1 unless ``constant``. Further arguments are
    fields of `ReLICv2Recipe`.
    """
    preset = PRESETS[epochs]
    base = preset.momentum if momentum is None else momentum
    recipe = ReLICv2Recipe(
        large=large,
        negatives=negatives,
        momentum=MomentumRecipe(base, "constant" if constant else "cosine"),
        **method,  # type: ignore[arg-type]
    )
    masked = MASK if mask_probability else ""
    return PretrainRecipe(
        method=recipe,
        data="",
        views=views(
            large,
            small,
            mask=masked,
            mask_probability=mask_probability,
            mask_change=mask_change if mask_probability else None,
        ),
        encoder=encoder or ResNetRecipe("resnet50"),
        optimizer=lars(preset),
        epochs=epochs,
        batch=BATCH,
        bn_group=BATCH,
    )


def compared_masks() -> dict[str, PretrainRecipe]:
    """Return the trainings of Table 18 without masks and with those of saliency."""
    return {
        "none": relicv2(300, mask_probability=0.0, momentum=ABLATIONS),
        "saliency": relicv2(300, momentum=ABLATIONS),
    }


def byol(epochs: int, *, mask_probability: float) -> PretrainRecipe:
    """Return BYOL on the two large views of ReLICv2, with its preset for ``epochs``."""
    preset = PRESETS[epochs]
    same = relicv2(epochs, large=2, small=0, mask_probability=mask_probability)
    return replace(same, method=BYOLRecipe(momentum=MomentumRecipe(preset.momentum, "cosine")))


def lars(preset: Preset) -> OptimizerRecipe:
    """Return LARS as BYOL has it: a warm-up of ten epochs, a cosine to 0, exclusions."""
    return OptimizerRecipe(
        "lars",
        lr=preset.rate * BATCH / 256,
        momentum=0.9,
        weight_decay=preset.decay,
        exclude_bias_and_norm=True,
        schedule=ScheduleRecipe("cosine", warmup_epochs=10, per="step"),
    )


LINEAR = LinearProbe(
    train_view=replace(crop_and_flip(224), crop_scale=(0.08, 1.0), interpolation="bicubic"),
    test_view=replace(center(224, 256), interpolation="bicubic"),
    lr=1.2,
    nesterov=True,
    batch=1024,
    epochs=100,
    milestones=(),
    schedule="cosine",
)
"""Linear evaluation of the official code: rate 0.3 for 256 images, Nesterov's momentum, a cosine,
no decay. There the cosine falls with every step, here with every epoch."""

OTHER_SETS: tuple[SetName, ...] = (
    "v2",
    "v2_threshold",
    "v2_top",
    "c",
    "r",
    "sketch",
    "objectnet",
)

OTHER_IMAGES = OutOfDistribution(LINEAR, sets=tuple(map(OodSet, OTHER_SETS)))
"""The linear classifier on other test sets (section 4.1)."""
