"""What torchvision's published classifiers recognise from texture alone (figures 9 and 10)."""

from nonsemantic_negatives.zoo.checkpoints import Checkpoint, find_checkpoints
from nonsemantic_negatives.zoo.textures_alone import TextureAccuracy, texture_accuracy

__all__ = ["Checkpoint", "TextureAccuracy", "find_checkpoints", "texture_accuracy"]
