"""One image made of each image of a folder: textures, masks.

A made image depends on its image, the path of the image below the source folder and the settings,
and on nothing else, so that the work can be interrupted, shared by processes and continued.
"""

from retable.data.derived.command import derivation_parser, run_derivation
from retable.data.derived.files import Derivation, ImageMaker
from retable.data.derived.making import make_missing

__all__ = ["Derivation", "ImageMaker", "derivation_parser", "make_missing", "run_derivation"]
