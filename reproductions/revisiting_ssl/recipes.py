"""Recipes of the four pretext tasks at the paper's scale.

Sources: the supplement (sections 1 to 3) for batches, schedules and evaluations; the official code
(google/revisiting-self-supervised) for views, strides of the patch tasks and weight decay. Where
they differ or say nothing, the values are decisions; docstrings name them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from retable import views
from retable.evaluate.data import EvalData
from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.representation import Representation
from retable.methods import MethodRecipe, SupervisedRecipe
from retable.nn.patches import PatchGrid
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe
from retable.train.schedules import ScheduleRecipe
from revisiting_ssl import (
    ExemplarRecipe,
    JigsawRecipe,
    RelativePatchLocationRecipe,
    RotationRecipe,
)
from revisiting_ssl.encoders import ResidualRecipe, VggRecipe

IMAGENET_IMAGES = 1_231_121
"""ImageNet's training images without the 50,046 that the official code keeps for validation."""
HELD_OUT = 50_046
PLACES = {"places": "Places205 (205 classes, for instance 'imagefolder:' with train and val)"}

Encoder = ResidualRecipe | VggRecipe

TASKS: dict[str, MethodRecipe] = {
    "rotation": RotationRecipe(),
    "exemplar": ExemplarRecipe(),
    "relpatchloc": RelativePatchLocationRecipe(),
    "jigsaw": JigsawRecipe(),
}
WIDENINGS = {
    "rotation": (4, 8, 12, 16),
    "exemplar": (4, 8, 12),
    "relpatchloc": (4, 8),
    "jigsaw": (4, 8),
}
"""Widening factors of each task's encoders (tables 2 to 4)."""

ENCODERS: dict[str, Encoder] = {
    "revnet50": ResidualRecipe("reversible"),
    "resnet50_v2": ResidualRecipe("v2"),
    "resnet50_v1": ResidualRecipe("v1"),
    "revnet50_minus": ResidualRecipe("reversible", last_relu=False),
    "resnet50_v2_minus": ResidualRecipe("v2", last_relu=False),
    "vgg19_bn": VggRecipe(),
}

BATCH = {"rotation": 1024, "exemplar": 512, "relpatchloc": 1024, "jigsaw": 1024}
CORES = {"rotation": 128, "exemplar": 32, "relpatchloc": 32, "jigsaw": 32}
"""Images of a step, and TPU cores that share them, each with its own batch norm (section 1)."""


def is_patch_task(task: str) -> bool:
    """Return whether a task takes patches of 64 pixels instead of images of 224."""
    return task in ("relpatchloc", "jigsaw")


def encoder_for(task: str, encoder: Encoder, widening: int) -> Encoder:
    """Return the encoder at a width, with the strides that the code gives it for patches."""
    encoder = replace(encoder, widening=widening)
    if not is_patch_task(task):
        return encoder
    if isinstance(encoder, VggRecipe):
        return replace(encoder, fc_kernel=2)
    return replace(encoder, root_stride=1, strides=(1, 2, 2, 1))


def views_of(task: str) -> tuple[views.ViewRecipe, ...]:
    """Return the views of an image in a step: one, or eight (Exemplar)."""
    if task == "rotation":
        return (views.inception(224),)
    if task == "exemplar":
        return (views.inception(224, standardise=True, gray_probability=0.66),) * 8
    return (views.patch_tasks(255, 292),)


def optimizer_of(task: str, encoder: Encoder, lr: float) -> OptimizerRecipe:
    """Return SGD with the paper's schedule: 5 epochs of warm-up, a tenth after 15 and 25 of 35.

    Weight decay 1e-4 on kernels alone, none on RevNet's root and 5e-4 on the head of the patch
    tasks (official code).
    """
    decays: list[tuple[str, float]] = []
    if isinstance(encoder, ResidualRecipe) and encoder.version == "reversible":
        decays.append(("encoder.root", 0.0))
    if is_patch_task(task):
        decays.append(("head", 5e-4))
    return OptimizerRecipe(
        lr=lr,
        momentum=0.9,
        weight_decay=1e-4,
        exclude_bias_and_norm=True,
        decays=tuple(decays),
        schedule=ScheduleRecipe("step", milestones=(15, 25), gamma=0.1, warmup_epochs=5.0),
    )


def pretraining(
    task: str, encoder: Encoder, widening: int, method: MethodRecipe | None = None
) -> PretrainRecipe:
    """Return the paper's pretraining of a cell (section 1)."""
    batch = BATCH[task]
    network = encoder_for(task, encoder, widening)
    return PretrainRecipe(
        method=method or TASKS[task],
        data="",
        views=views_of(task),
        encoder=network,
        optimizer=optimizer_of(task, network, lr=0.1 * batch / 256),
        epochs=35,
        batch=batch,
        bn_group=batch // CORES[task],
        validation_images=HELD_OUT,
    )


BEST = {
    "rotation": ("revnet50", 16),
    "exemplar": ("resnet50_v1", 12),
    "relpatchloc": ("resnet50_v1", 8),
    "jigsaw": ("resnet50_v1", 8),
}
"""Encoder and width of the models that the official configuration evaluates (main Table 2)."""


def best(task: str) -> PretrainRecipe:
    """Return the pretraining of a task's best encoder."""
    name, widening = BEST[task]
    return pretraining(task, ENCODERS[name], widening)


def supervised(encoder: Encoder) -> PretrainRecipe:
    """Return supervised training (official code, ``config/supervised``): 90 epochs, batch 256."""
    schedule = ScheduleRecipe("step", milestones=(30, 60, 80), gamma=0.1, warmup_epochs=5.0)
    return PretrainRecipe(
        method=SupervisedRecipe(classes=1000),
        data="",
        views=(views.inception(224),),
        encoder=encoder,
        optimizer=replace(optimizer_of("rotation", encoder, lr=0.1), schedule=schedule),
        epochs=90,
        batch=256,
        bn_group=32,
        validation_images=HELD_OUT,
    )


def representation_of(task: str, taps: tuple[str, ...] = ("pre_logits",)) -> Representation:
    """Return the features of the linear model; patch tasks: mean over nine patches (section 2)."""
    return Representation(taps, patches=PatchGrid(cell=64) if is_patch_task(task) else None)


def test_view(task: str) -> views.ViewRecipe:
    """Return the central crop: 224 of 256 pixels, or the nine patches' 192 of 255 (section 2).

    Exemplar's views are standardised as in its pretraining (D5).
    """
    if is_patch_task(task):
        return views.patch_evaluation(192, 255)
    return views.resized_crop(224, 256, standardise=task == "exemplar")


def logistic(
    task: str, name: str, taps: tuple[str, ...] = ("pre_logits",), **data: Any
) -> LogisticProbe:
    """Return the linear evaluation by L-BFGS (section 2): lambda = 100 / (M C), 800 updates.

    Scored on images that are held out of the training set (D3), features of the central crop. The
    paper ran SciPy's L-BFGS-B; ours reaches the same optimum in fewer evaluations.
    """
    return LogisticProbe(
        penalty="rule",
        iterations=800,
        view=test_view(task),
        representation=representation_of(task, taps),
        data=EvalData(split="validation", validation_images=HELD_OUT, **data),
        name=name,
    )


def sgd(task: str, name: str, first_decay: int = 480, **data: Any) -> LinearProbe:
    """Return the linear evaluation by SGD (section 2), scored on the official test images.

    Batch 2048, 1024 for patches; rate 0.1 * batch / 256, a tenth from ``first_decay`` on, again 20
    epochs later, and the end 20 epochs after that: 520 epochs. Crops are random in training.
    """
    batch = 1024 if is_patch_task(task) else 2048
    return LinearProbe(
        lr=0.1 * batch / 256,
        momentum=0.9,
        weight_decay=0.0,
        batch=batch,
        epochs=first_decay + 40,
        milestones=(first_decay, first_decay + 20),
        train_view=replace(test_view(task), window="random"),
        test_view=test_view(task),
        representation=representation_of(task),
        data=EvalData(**data),
        name=name,
    )
