"""MoCHi's recipes at the paper's scale, and how its tables are shrunk.

Sources: the slide deck of the first author for (N, s, s') and the tables; the MoCo repository for
everything that MoCHi takes over; values that neither states are decisions, named where they stand.
"""

from __future__ import annotations

from dataclasses import replace

from mochi import MoCHiRecipe
from retable import views
from retable.encoders import ResNetRecipe
from retable.evaluate.linear import LinearProbe
from retable.methods import MoCoRecipe, SupervisedRecipe
from retable.reproduce.shrinking import (
    PROXY,
    SMOKE,
    SmallScale,
    shrink_pretraining,
)
from retable.reproduce.table import TableRow
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe
from retable.train.schedules import ScheduleRecipe

IMAGENET100_IMAGES = 126_689
IMAGENET1K_IMAGES = 1_281_167

PROXY_EPOCHS = 12


def pretraining(method: MoCoRecipe, *, epochs: int, batch: int, version: int = 2) -> PretrainRecipe:
    """Return MoCo's pretraining recipe (MoCo repository, ``main_moco.py``), images left open.

    Four processes share a batch (MoCHi, experiments on ImageNet-100): batch norm sees a quarter.
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


def mochi(n_hard: int, s: int, s_prime: int, **changes: object) -> MoCHiRecipe:
    """Return MoCHi (N, s, s') on ImageNet-100: mixing from epoch 10 on (memory of the paper)."""
    return MoCHiRecipe(n_hard=n_hard, s=s, s_prime=s_prime, **changes)  # type: ignore[arg-type]


def supervised_bound(classes: int) -> PretrainRecipe:
    """Return cross-entropy training; the paper's recipe is unknown, torchvision's is taken."""
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


def proxy(row: TableRow) -> TableRow:
    """Shrink a row to the built-in images: 64 classes, 32 px, 8,000 images, a 77k-weight encoder.

    Kept in proportion: K = 1024 of 8,000 images (12.8 %, ImageNet-100: 12.9 %); N : s : s' : K
    within a factor of two of the paper's; mixing from 5 % of the epochs on; four batch-norm groups;
    milestones at the same share of the run. With 64 classes a queue holds 1.6 % of false negatives
    (ImageNet-100: 1 %). Changed, since the run is a hundredth as long and the images are simpler:
    the key encoder's momentum (0.99), the probe's learning rate (3), grey with probability 0.5 and
    crops of at least half the image (six colours would otherwise tell images apart), half the blur.
    """
    return shrink(row, PROXY, PROXY_EPOCHS, queue=1024)


def smoke(row: TableRow) -> TableRow:
    """Shrink a row to seconds: the same code, two epochs on 512 images; claims nothing."""
    return shrink(row, SMOKE, 2, queue=256)


def shrink(row: TableRow, scale: SmallScale, epochs: int, *, queue: int) -> TableRow:
    """Return the row on small images with its proportions kept."""
    method = row.pretrain.method
    if isinstance(method, MoCoRecipe):
        method = shrink_moco(method, queue, epochs)
    elif isinstance(method, SupervisedRecipe):
        method = replace(method, classes=scale.classes)
    return replace(
        row,
        pretrain=shrink_pretraining(row.pretrain, method, epochs, scale),
        evaluations=tuple(e.shrunk(scale.probe_epochs) for e in row.evaluations),
    )


def shrink_moco(method: MoCoRecipe, queue: int, epochs: int) -> MoCoRecipe:
    """Return MoCo or MoCHi with a queue of ``queue`` keys and everything in proportion to it."""
    if not isinstance(method, MoCHiRecipe):
        return replace(method, queue=queue, momentum=0.99)
    # The paper's largest queue would leave pools of two: N, s, s' may be twice their share of it.
    share = max(queue / method.queue, 1 / 32)
    return replace(
        method,
        queue=queue,
        momentum=0.99,
        n_hard=round(method.n_hard * share),
        s=round(method.s * share),
        s_prime=round(method.s_prime * share),
        mixing_warmup_epochs=max(1, round(epochs * 0.05)),
        analysed_negatives=round(1024 * share),
    )
