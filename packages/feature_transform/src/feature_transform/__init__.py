"""Feature transformation for contrastive learning (Zhu et al., ICCV 2021)."""

from feature_transform.hard_negatives import hard_negative_scores, mix_with_query
from feature_transform.infomin import InfoMin, InfoMinRecipe
from feature_transform.jigsaw import JigsawHead, cut_jigsaw
from feature_transform.logits import transformed_logits
from feature_transform.moco import MoCoFT, MoCoFTRecipe
from feature_transform.negatives import mix_negatives, mixed_cosines
from feature_transform.positives import extrapolate_positives
from feature_transform.recipe import TransformRecipe
from feature_transform.siamese import BYOLFT, BYOLFTRecipe, SimSiamFT, SimSiamFTRecipe
from feature_transform.simclr import SimCLRFT, SimCLRFTRecipe
from feature_transform.swav import SwAV, SwAVRecipe

__all__ = [
    "BYOLFT",
    "BYOLFTRecipe",
    "InfoMin",
    "InfoMinRecipe",
    "JigsawHead",
    "MoCoFT",
    "MoCoFTRecipe",
    "SimCLRFT",
    "SimCLRFTRecipe",
    "SimSiamFT",
    "SimSiamFTRecipe",
    "SwAV",
    "SwAVRecipe",
    "TransformRecipe",
    "cut_jigsaw",
    "extrapolate_positives",
    "hard_negative_scores",
    "mix_negatives",
    "mix_with_query",
    "mixed_cosines",
    "transformed_logits",
]

__version__ = "0.1.0"
