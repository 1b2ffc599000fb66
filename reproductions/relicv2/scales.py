"""Tables of ReLICv2 at proxy and smoke scale.

Kept: the proportions of the common scale, numbers of views, probabilities, negatives. Changed, with
the reason:

- SGD instead of LARS, which does not move at BYOL's rate in some hundred steps. LARS divides a
  loss's scale out, SGD does not: without the invariance term the contrastive one has scale 1, as in
  SimCLR.
- Small views have 16 pixels and 10 to 30 % of the image: 5 to 14 % of 32 x 32 are a few pixels.
- All runs have 10 epochs, a quarter of the common scale's: a step has up to six views.
- Masks are those of the images themselves. The background agrees with the class in nine of ten
  images, so that masks have something to remove; classifiers are also tested where it is
  independent of the class, and on backgrounds alone.
- The momentum of the target network rises from 0.99 in all tables but that of momenta, as in the
  paper's trainings of 100 epochs: 0.996 averages over 250 of the 620 steps. Tables share runs in
  this way.
- A command trains four or five rows of a grid, unless ``--rows`` names others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from relicv2 import ReLICv2Recipe
from relicv2.evaluations import NeighbourConfusion
from reproductions.baselines.scales import small_heads, small_optimizer
from retable.data.shapes.roles import ROLES
from retable.data.sources import with_parameter
from retable.data.transfer.classification.sets import CLASSIFICATION_SETS
from retable.encoders import EncoderRecipe, ResNetRecipe
from retable.evaluate.data import EvalData
from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.ood import OutOfDistribution
from retable.evaluate.protocol import Evaluation
from retable.methods import BYOLRecipe, MethodRecipe, SupervisedRecipe
from retable.nn.momentum import MomentumRecipe
from retable.reproduce import shrinking
from retable.reproduce.shrinking import (
    STAND_INS,
    SmallScale,
    shrink_evaluation,
    shrink_pretraining,
)
from retable.reproduce.table import TableRow
from retable.views import ViewRecipe

SPURIOUS = 0.9
"""Share of images whose background agrees with their class."""

BACKGROUNDS = ("background_shuffled", "background_only")
"""Variants of test images on which classifiers are also tested."""

MOMENTUM = MomentumRecipe(0.99, "cosine")
"""Of the target network."""

SHIFTED_IMAGES = 1000
"""Test images of each shifted set of Table 3."""

ALIKE = (13, 32, 11, 30)
"""Two trees, and two discs with holes, among the classes of the built-in images."""

EPOCHS = 10
SMALL_SIDE, SMALL_AREA = 16, (0.1, 0.3)

PROXY = replace(
    shrinking.PROXY,
    data=with_parameter(shrinking.PROXY.data, "background_rho", SPURIOUS),
    epochs=EPOCHS,
)
SMOKE = replace(
    shrinking.SMOKE, data=with_parameter(shrinking.SMOKE.data, "background_rho", SPURIOUS)
)


def shrink(
    row: TableRow, scale: SmallScale, *, momentum: MomentumRecipe | None, backgrounds: bool
) -> TableRow:
    """Return a row on small images, of one length whatever the paper's.

    Args:
        row: the paper's row.
        scale: the small images.
        momentum: of the target network; None: the recipe's.
        backgrounds: whether linear probes are also tested on other backgrounds.
    """
    full = row.pretrain
    method = shrink_method(full.method, scale, momentum)
    small = shrink_pretraining(full, method, scale.epochs, scale)
    views = [
        shrink_small(view) if before.size < full.views[0].size else view
        for before, view in zip(full.views, small.views, strict=True)
    ]
    optimizer = small.optimizer
    if not isinstance(method, SupervisedRecipe):
        optimizer = small_optimizer(optimizer, scale.rate)
    small = replace(
        small,
        views=tuple(views),
        optimizer=optimizer,
        encoder=shrink_encoder(full.encoder, scale.encoder),
    )
    evaluations = [
        small for one in row.evaluations for small in shrink_probe(one, scale, backgrounds)
    ]
    return replace(row, pretrain=small, evaluations=tuple(evaluations))


def shrink_probe(evaluation: Evaluation, scale: SmallScale, backgrounds: bool) -> list[Evaluation]:
    """Return the evaluation of small images, of a linear probe perhaps on other backgrounds too.

    Of published sets those remain that variants of the built-in images stand for, on fewer images,
    and of other data sets those that have a stand-in.
    """
    if evaluation.data.source in CLASSIFICATION_SETS.keys() - STAND_INS.keys():
        return []
    if isinstance(evaluation, OutOfDistribution):
        images = SHIFTED_IMAGES if scale is PROXY else 16
        fewer = EvalData(source=with_parameter(scale.data, "test_count", images))
        probe: Any = shrink_evaluation(evaluation.probe, scale).with_data(fewer)
        sets = tuple(one for one in evaluation.sets if one.name in ROLES)
        return [replace(evaluation, probe=probe, sets=sets)]
    small = shrink_evaluation(evaluation, scale)
    if isinstance(small, NeighbourConfusion):
        few = max(ALIKE) >= scale.classes
        return [replace(small, classes=tuple(range(len(ALIKE))) if few else ALIKE)]
    if backgrounds and isinstance(small, LinearProbe | LogisticProbe):
        return [small, OutOfDistribution(small, BACKGROUNDS)]
    return [small]


def shrink_encoder(encoder: EncoderRecipe, small: ResNetRecipe) -> EncoderRecipe:
    """Return the small encoder, deeper for a ResNet-200, with the width of ``encoder``."""
    if not isinstance(encoder, ResNetRecipe):
        return small
    name = "small_resnet14" if encoder.name == "resnet200" else small.name
    return replace(small, name=name, width=encoder.width)


def shrink_small(view: ViewRecipe) -> ViewRecipe:
    """Return a small view of 16 pixels."""
    return replace(view, size=SMALL_SIDE, crop_scale=SMALL_AREA, blur_kernel=3)


def shrink_method(
    method: MethodRecipe, scale: SmallScale, momentum: MomentumRecipe | None
) -> MethodRecipe:
    """Return the method with small heads, and with the ``momentum`` of short trainings if given."""
    if isinstance(method, SupervisedRecipe):
        return replace(method, classes=scale.classes)
    small = small_heads(method)
    if isinstance(small, BYOLRecipe) and momentum is not None:
        small = replace(small, momentum=momentum)
    if isinstance(small, ReLICv2Recipe) and not small.invariance_scale:
        small = replace(small, contrast_scale=1.0)
    return small
