"""The baselines that several papers start from, and their common interface."""

from retable.methods.byol import BYOL, BYOLRecipe
from retable.methods.method import Batch, Method, MethodRecipe, Metrics, Progress, StepOutput
from retable.methods.moco import MoCo, MoCoRecipe, moco_v1, moco_v2
from retable.methods.siamese import Siamese
from retable.methods.simclr import SimCLR, SimCLRRecipe
from retable.methods.simsiam import SimSiam, SimSiamRecipe
from retable.methods.supervised import Supervised, SupervisedRecipe

__all__ = [
    "BYOL",
    "BYOLRecipe",
    "Batch",
    "Method",
    "MethodRecipe",
    "Metrics",
    "MoCo",
    "MoCoRecipe",
    "Progress",
    "Siamese",
    "SimCLR",
    "SimCLRRecipe",
    "SimSiam",
    "SimSiamRecipe",
    "StepOutput",
    "Supervised",
    "SupervisedRecipe",
    "moco_v1",
    "moco_v2",
]
