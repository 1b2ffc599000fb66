"""Four pretext tasks (Kolesnikov, Zhai and Beyer, CVPR 2019)."""

from revisiting_ssl.exemplar import Exemplar, ExemplarRecipe
from revisiting_ssl.rotation import Rotation, RotationRecipe, rotation_labels, rotations
from revisiting_ssl.triplet import semi_hard_triplet_loss

__all__ = [
    "Exemplar",
    "ExemplarRecipe",
    "Rotation",
    "RotationRecipe",
    "rotation_labels",
    "rotations",
    "semi_hard_triplet_loss",
]

__version__ = "0.1.0"
