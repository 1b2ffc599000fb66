"""Tables of non-semantic negatives at proxy and smoke scale.

Kept: the proportions of the common scale. Changed, with the reason:

- All of the 64 outlines are classes, and each has one of the 8 textures: otherwise an encoder has
  no shortcut by texture that the negatives could remove. MoCo v2 loses 10.5 points there when the
  textures are swapped (three seeds), and 5 to 9 points with fewer classes, less constant textures,
  other crops or fewer epochs: ``studies/nonsemantic_negatives/texture_shortcut.py --show``.
- K is a quarter of the images for 16,384 keys, in proportion for other queues, at most a half; and
  alpha is the one whose negatives have the paper's share of the gradient with that queue.
- Patches have 5 to 12 of 32 pixels for 16 to 72 of 224: textures repeat every 4 to 8 pixels there,
  and smaller patches would destroy what the negatives must keep.
"""

from __future__ import annotations

import math
from dataclasses import replace

from nonsemantic_negatives import BYOLNSRecipe, MoCoNSRecipe, PatchNegatives
from nonsemantic_negatives.cosines import Cosines
from reproductions.baselines.scales import shrink_moco, shrink_row
from reproductions.nonsemantic_negatives.recipes import QUEUE
from retable.data.sources import with_parameter
from retable.evaluate.data import EvalData
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.ood import OutOfDistribution
from retable.evaluate.protocol import Evaluation
from retable.methods import MethodRecipe, MoCoRecipe
from retable.reproduce import shrinking
from retable.reproduce.shrinking import SmallScale
from retable.reproduce.table import TableRow
from retable.views import center

_SHAPES = "shapes-textures?count={}&test_count={}&size=32&classes={}&rho={}"

PROXY = replace(shrinking.PROXY, data=_SHAPES.format(4000, 10000, 64, 1.0), classes=64)
SMOKE = replace(shrinking.SMOKE, data=_SHAPES.format(512, 256, 16, 0.9))

PATCHES = PatchNegatives(low=5, high=12)
"""Patches of 32 pixels for the paper's 16 to 72 of 224."""

SHIFTED_IMAGES = 1000
"""Test images of each shifted set; there are 79."""

FACTORS = ("outline", "texture")
"""Factors of the built-in images that encoders are probed for where cosines are measured."""

SCORES = {"positive": 0.9, "nonsemantic": 0.404, "standard": 0.0}
"""Cosines that shares of the gradient are computed with: 0.404 is the paper's mean (figure 12)."""


def proxy(row: TableRow) -> TableRow | None:
    """Shrink a row to the built-in images and a minute of one core."""
    return shrink(row, PROXY)


def smoke(row: TableRow) -> TableRow | None:
    """Shrink a row to seconds: two epochs on 512 images, to check that the code runs."""
    return shrink(row, SMOKE)


def shrink(row: TableRow, scale: SmallScale) -> TableRow | None:
    """Return a row on small images; None if its patches are not the paper's usual ones."""
    negatives = getattr(row.pretrain.method, "negatives", None)
    if isinstance(negatives, PatchNegatives) and negatives != PatchNegatives():
        return None
    pretrain = row.pretrain
    if pretrain.batch > 256:  # the README's rate of 0.8 for 512 images: an image's rate stays
        optimizer = pretrain.optimizer
        rate = optimizer.lr * 128 / pretrain.batch
        pretrain = replace(pretrain, optimizer=replace(optimizer, lr=rate))
    small = shrink_row(TableRow(pretrain, ()), scale, shrink_method)
    evaluations = [one for each in row.evaluations for one in shrink_evaluation(each, scale)]
    return replace(small, evaluations=tuple(evaluations))


def shrink_method(method: MethodRecipe, scale: SmallScale, epochs: int) -> MethodRecipe:
    """Return a method with a small queue and the alpha of the same share of the gradient."""
    small = shrink_moco(method, scale, epochs)
    if isinstance(small, BYOLNSRecipe) and small.negatives is not None:
        return replace(small, negatives=PATCHES)
    if not (isinstance(small, MoCoRecipe) and isinstance(method, MoCoRecipe)):
        return small
    queue = min(scale.images // 4 * method.queue // QUEUE, scale.images // 2)
    small = replace(small, queue=queue)
    if not isinstance(small, MoCoNSRecipe):
        return small
    negatives = PATCHES if isinstance(small.negatives, PatchNegatives) else small.negatives
    alpha = round(equal_share(small.alpha, method.queue, queue, small.temperature), 2)
    return replace(small, alpha=alpha, negatives=negatives)


def shrink_evaluation(evaluation: Evaluation, scale: SmallScale) -> list[Evaluation]:
    """Return evaluations of small images, those of shifted images on fewer of them."""
    if isinstance(evaluation, OutOfDistribution):
        probe = shrinking.shrink_evaluation(replace(evaluation.probe), scale)
        images = SHIFTED_IMAGES if scale is PROXY else 16
        fewer = EvalData(source=with_parameter(scale.data, "test_count", images))
        return [probe, replace(evaluation, probe=probe.with_data(fewer))]  # type: ignore[arg-type]
    if isinstance(evaluation, Cosines):
        query, key = (shrinking.shrink_view(view, scale.least_crop) for view in evaluation.views)
        smaller = replace(evaluation, views=(query, key), patches=PATCHES)
        return [smaller, *(factor_probe(factor, scale) for factor in FACTORS)]
    return [shrinking.shrink_evaluation(evaluation, scale)]


def factor_probe(factor: str, scale: SmallScale) -> LogisticProbe:
    """Return a probe for a factor of the images, on images whose texture no outline tells.

    Elsewhere a probe would read the texture off an encoder that knows the outline alone.
    """
    data = with_parameter(with_parameter(scale.data, "rho", 0), "labels", factor)
    probed = EvalData(source=data)
    return LogisticProbe(
        l2=(shrinking.PENALTY,), view=center(32), data=probed, name=f"{factor}_factor"
    )


def gradient_share(alpha: float, queue: int, temperature: float) -> float:
    """Return alpha e^(alpha s_ns / tau) / Z, the share of the gradient at the cosines `SCORES`."""
    positive, nonsemantic, standard = (math.exp(score / temperature) for score in SCORES.values())
    weight = math.exp(alpha * math.log(nonsemantic))
    return alpha * weight / (positive + weight + queue * standard)


def equal_share(alpha: float, queue: int, small_queue: int, temperature: float) -> float:
    """Return the alpha whose negatives have the same share of the gradient with a small queue."""
    wanted = gradient_share(alpha, queue, temperature)
    low, high = 0.0, max(alpha, 1.0) * 4
    for _ in range(60):
        middle = (low + high) / 2
        if gradient_share(middle, small_queue, temperature) < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2
