"""The official checkpoints of google-deepmind/relicv2.

They are pickles of Haiku trees, which run code when they are opened: Retable does not open them.
A few lines in an environment of your own turn one into safetensors (README), and ``python -m
relicv2.official CONVERTED ENCODER`` makes an encoder file of that.
"""

from relicv2.official.network import HaikuResNet, HaikuResNetRecipe
from relicv2.official.reading import read_official

__all__ = ["HaikuResNet", "HaikuResNetRecipe", "read_official"]
