"""Texture twins: images that are synthesised from two patches of an image, without its shapes."""

from nonsemantic_negatives.textures.exemplars import cut_exemplars
from nonsemantic_negatives.textures.synthesis import synthesize

__all__ = ["cut_exemplars", "synthesize"]
