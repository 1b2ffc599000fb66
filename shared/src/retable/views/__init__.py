"""Views: random crops and photometric augmentation, what is drawn separated from what is done."""

from retable.views.augmentations import (
    byol,
    center,
    crop_and_flip,
    inception,
    infomin,
    jigsaw,
    moco_v1,
    moco_v2,
    patch_evaluation,
    patch_tasks,
    resized_crop,
    simclr,
    swav,
    without_draws,
)
from retable.views.colours import photometric
from retable.views.cropping import crop_resize, cut
from retable.views.making import make_view
from retable.views.recipe import ViewRecipe
from retable.views.sampling import ViewParameters, sample_parameters

__all__ = [
    "ViewParameters",
    "ViewRecipe",
    "byol",
    "center",
    "crop_and_flip",
    "crop_resize",
    "cut",
    "inception",
    "infomin",
    "jigsaw",
    "make_view",
    "moco_v1",
    "moco_v2",
    "patch_evaluation",
    "patch_tasks",
    "photometric",
    "resized_crop",
    "sample_parameters",
    "simclr",
    "swav",
    "without_draws",
]
