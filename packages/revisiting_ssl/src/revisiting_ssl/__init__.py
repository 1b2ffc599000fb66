"""Four pretext tasks and the encoders they are compared on (Kolesnikov et al., CVPR 2019)."""

from retable.nn.patches import PatchGrid, cut_patches
from revisiting_ssl.encoders import ResidualRecipe, VggRecipe
from revisiting_ssl.exemplar import Exemplar, ExemplarRecipe
from revisiting_ssl.jigsaw import Jigsaw, JigsawRecipe, draw_permutations, join
from revisiting_ssl.patch_head import PatchHead
from revisiting_ssl.permutations import permutation_set
from revisiting_ssl.relative_patch_location import (
    RelativePatchLocation,
    RelativePatchLocationRecipe,
    join_with_centre,
    location_pairs,
)
from revisiting_ssl.rotation import Rotation, RotationRecipe, rotation_labels, rotations
from revisiting_ssl.triplet import semi_hard_triplet_loss

__all__ = [
    "Exemplar",
    "ExemplarRecipe",
    "Jigsaw",
    "JigsawRecipe",
    "PatchGrid",
    "PatchHead",
    "RelativePatchLocation",
    "RelativePatchLocationRecipe",
    "ResidualRecipe",
    "Rotation",
    "RotationRecipe",
    "VggRecipe",
    "cut_patches",
    "draw_permutations",
    "join",
    "join_with_centre",
    "location_pairs",
    "permutation_set",
    "rotation_labels",
    "rotations",
    "semi_hard_triplet_loss",
]

__version__ = "0.1.0"
