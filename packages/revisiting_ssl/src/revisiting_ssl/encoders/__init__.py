"""Encoders of Kolesnikov, Zhai and Beyer (2019): ResNet v1 and v2, RevNet and VGG of any width.

Importing this module registers the recipes, so that their encoder files can be loaded.
"""

from revisiting_ssl.encoders.residual import ResidualEncoder, ResidualRecipe
from revisiting_ssl.encoders.vgg import VggEncoder, VggRecipe

__all__ = ["ResidualEncoder", "ResidualRecipe", "VggEncoder", "VggRecipe"]
