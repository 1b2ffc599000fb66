"""MoCHi: hard negative mixing for contrastive learning (Kalantidis et al., NeurIPS 2020)."""

from mochi.logits import mixed_logits
from mochi.method import MoCHi, MoCHiRecipe
from mochi.mixing import mix_hard_negatives

__all__ = ["MoCHi", "MoCHiRecipe", "mix_hard_negatives", "mixed_logits"]

__version__ = "0.1.0"
