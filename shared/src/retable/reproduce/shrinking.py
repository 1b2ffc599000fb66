"""Shrink a paper's recipe to the built-in images and keep its proportions.

Common to all papers are data, encoder, views, length, batch and evaluations. The paper's scripts
shrink the settings of their methods, for instance a queue or a warm-up of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from retable.data.sources import with_parameter
from retable.encoders import ResNetRecipe
from retable.evaluate.data import EvalData
from retable.evaluate.knn import Knn, neighbours
from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.protocol import Evaluation
from retable.evaluate.transfer.detection.evaluation import DetectionTransfer
from retable.evaluate.transfer.segmentation.evaluation import SegmentationTransfer
from retable.methods.method import MethodRecipe
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe
from retable.views import ViewRecipe, center

PENALTY = 1e-4
"""L2 penalty of the probe on standardised features."""


@dataclass(frozen=True)
class SmallScale:
    """The data set, its training images and classes, and the size that recipes are shrunk to.

    Attributes:
        epochs: of a paper's 200.
        queue: K of a paper's queue of an eighth of the images.
        rate: factor of the learning rates of contrastive methods.
        least_crop: smallest share of an image that a contrastive view shows.
        least_group: least number of images that share batch-norm statistics.
        scenes: data set of detection and segmentation, with ``scene_images`` training images.
        scene_epochs: of segmentation; a detector has five steps for each, a pyramid ten.
        transfer_images: of each split of other data sets, see `stand_in`.
        converged: whether linear probes are solved by L-BFGS on whole images. A shortened probe by
            SGD on crops reaches half of its accuracy and orders encoders differently.
    """

    data: str
    images: int
    classes: int
    batch: int
    epochs: int
    queue: int
    probe_epochs: int
    rate: float = 1.0
    least_crop: float = 0.5
    least_group: int = 16
    encoder: ResNetRecipe = field(default_factory=lambda: ResNetRecipe("small_resnet8"))
    converged: bool = False
    scenes: str = "shapes-scenes?count=400&test_count=400&size=64"
    scene_images: int = 400
    scene_epochs: int = 48
    transfer_images: int = 1000


PROXY = SmallScale(
    "shapes?count=4000&test_count=10000&size=32&classes=32&rho=0.7",
    images=4000,
    classes=32,
    batch=64,
    epochs=40,
    queue=512,
    probe_epochs=12,
    rate=2.0,
    least_crop=0.6,
    least_group=32,
    converged=True,
)
"""32 classes, 4,000 images of 32 px, an encoder of 77k weights. It was chosen by what it shows of
the facts in ``reproductions/baselines``, never by claims of papers: ``studies/proxy_search.py``."""

SMOKE = SmallScale(
    "shapes?count=512&test_count=256&size=32&classes=16&rho=0.7",
    images=512,
    classes=16,
    batch=64,
    epochs=2,
    queue=256,
    probe_epochs=2,
    scenes="shapes-scenes?count=48&test_count=16&size=64",
    scene_images=48,
    scene_epochs=1,
    transfer_images=64,
)
"""Takes seconds and only checks that the code runs."""


STAND_INS: dict[str, dict[str, str | int]] = {
    "food101": {"classes": 64, "seed": 1},
    "inaturalist2018": {"classes": 64, "seed": 1},
    "sun397": {"labels": "background"},
    "flowers": {"labels": "foreground"},
    "cub200": {"labels": "foreground"},
    "dtd": {"labels": "texture"},
    "aircraft": {"labels": "scene"},
}
"""What of the built-in images stands for another data set.

Outlines that the pretraining has not seen, or other classes of its kind of images. Small scales
leave out data sets without a stand-in.
"""


def stand_in(name: str, scale: SmallScale) -> str:
    """Return the data set of built-in images that stands for another one."""
    images = {"count": scale.transfer_images, "test_count": scale.transfer_images}
    found = scale.data
    for parameter, value in {**images, **STAND_INS[name]}.items():
        found = with_parameter(found, parameter, value)
    return found


def shrink_pretraining(
    recipe: PretrainRecipe, method: MethodRecipe, epochs: int, scale: SmallScale
) -> PretrainRecipe:
    """Return the recipe on small images, for ``epochs`` and with the given, shrunk ``method``.

    Milestones and warm-up keep their share of the run, and batch-norm groups theirs of the batch,
    but for at most four groups of ``scale.least_group`` images: smaller ones would measure noise.
    """
    groups = 1
    if recipe.bn_group is not None:
        most = min(4, scale.batch // scale.least_group)
        groups = max(1, min(most, recipe.batch // recipe.bn_group))
    return replace(
        recipe,
        method=method,
        data=scale.data,
        views=tuple(shrink_view(view, scale.least_crop) for view in recipe.views),
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


def shrink_view(view: ViewRecipe, least_crop: float) -> ViewRecipe:
    """Return a view of 32 px; a contrastive one without the shortcut of colour.

    Six colours would tell the built-in images apart: grey with probability 0.5, crops of most of
    the image and half the blur leave the outline as the easier way.
    """
    view = replace(view, size=32)
    if view.gray_probability == 0:
        return view
    view = replace(view, crop_scale=(least_crop, 1.0), gray_probability=0.5)
    return replace(view, blur_sigma=(0.1, 1.0), blur_kernel=None)


def shrink_evaluation(evaluation: Evaluation, scale: SmallScale) -> Evaluation:
    """Return an evaluation of small images, see `SmallScale.converged`.

    Detectors and segmentation networks are trained on built-in scenes, and other data sets of
    images are replaced by their `stand_in`.
    """
    if (name := evaluation.data.source) in STAND_INS:
        own = shrink_evaluation(evaluation.with_data(EvalData()), scale)
        return own.with_data(EvalData(stand_in(name, scale)))
    if isinstance(evaluation, DetectionTransfer):
        return evaluation.shrunk(scale.scene_epochs).with_data(EvalData(scale.scenes))
    if isinstance(evaluation, SegmentationTransfer):
        small = replace(evaluation.shrunk(scale.scene_epochs), images=scale.scene_images)
        return small.with_data(EvalData(scale.scenes))
    if isinstance(evaluation, Knn):
        few = min(evaluation.k, neighbours(scale.images, scale.classes))
        return replace(evaluation.shrunk(scale.probe_epochs), k=few)
    if not (scale.converged and isinstance(evaluation, LinearProbe)):
        return evaluation.shrunk(scale.probe_epochs)
    return LogisticProbe(
        l2=(PENALTY,),
        view=center(32),
        representation=evaluation.representation,
        data=evaluation.data,
        name=evaluation.name,
    )
