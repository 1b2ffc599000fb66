"""Feature transformation for contrastive learning (Zhu et al., ICCV 2021)."""

from feature_transform.recipe import TransformRecipe

__all__ = ["TransformRecipe"]

__version__ = "0.1.0"
