"""MoCHi's tables at proxy and smoke scale."""

from __future__ import annotations

from dataclasses import replace

from mochi import MoCHiRecipe
from retable.methods import MoCoRecipe, SupervisedRecipe
from retable.reproduce.shrinking import (
    PROXY,
    SMOKE,
    SmallScale,
    shrink_pretraining,
)
from retable.reproduce.table import TableRow

PROXY_EPOCHS = 12


def proxy(row: TableRow) -> TableRow:
    """Shrink a row to the built-in images: 64 classes, 32 px, 8,000 images, a 77k-weight encoder.

    Kept in proportion: K = 1024 of 8,000 images (12.8 %, ImageNet-100: 12.9 %); N : s : s' : K
    within a factor of two of the paper's; mixing from 5 % of the epochs on; four batch-norm groups;
    milestones at the same share of the run. With 64 classes a queue holds 1.6 % of false negatives
    (ImageNet-100: 1 %). Changed, since the run is a hundredth as long and the images are simpler:
    the key encoder's momentum (0.99), the probe's learning rate (3), grey with probability 0.5 and
    crops of at least half the image (six colours would otherwise identify images), half the blur.
    """
    return shrink(row, PROXY, PROXY_EPOCHS, queue=1024)


def smoke(row: TableRow) -> TableRow:
    """Shrink a row to seconds: two epochs on 512 images, to check that the code runs."""
    return shrink(row, SMOKE, 2, queue=256)


def shrink(row: TableRow, scale: SmallScale, epochs: int, *, queue: int) -> TableRow:
    """Return the row on small images in the same proportions."""
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
    """Return MoCo or MoCHi with a queue of ``queue`` keys and all sizes in proportion to it."""
    if not isinstance(method, MoCHiRecipe):
        return replace(method, queue=queue, momentum=0.99)
    # In proportion to the paper's largest queue, pools would have two negatives: N, s and s' may be
    # twice as large.
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
