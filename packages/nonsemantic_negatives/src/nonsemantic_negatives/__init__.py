"""Contrastive learning with negatives of diminished semantics (Ge et al., NeurIPS 2021)."""

from nonsemantic_negatives.byol import BYOLNS, BYOLNSRecipe
from nonsemantic_negatives.logits import nonsemantic_logits
from nonsemantic_negatives.moco import MoCoNS, MoCoNSRecipe
from nonsemantic_negatives.negatives import NegativeRecipe, PatchNegatives, TextureNegatives
from nonsemantic_negatives.patches import patch_negatives

__all__ = [
    "BYOLNS",
    "BYOLNSRecipe",
    "MoCoNS",
    "MoCoNSRecipe",
    "NegativeRecipe",
    "PatchNegatives",
    "TextureNegatives",
    "nonsemantic_logits",
    "patch_negatives",
]

__version__ = "0.1.0"
