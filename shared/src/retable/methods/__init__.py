"""The baselines that several papers start from, and the interface they share."""

from retable.methods.method import Batch, Method, MethodRecipe, Metrics, Progress, StepOutput
from retable.methods.moco import MoCo, MoCoRecipe, moco_v1, moco_v2
from retable.methods.simclr import SimCLR, SimCLRRecipe
from retable.methods.supervised import Supervised, SupervisedRecipe

__all__ = [
    "Batch",
    "Method",
    "MethodRecipe",
    "Metrics",
    "MoCo",
    "MoCoRecipe",
    "Progress",
    "SimCLR",
    "SimCLRRecipe",
    "StepOutput",
    "Supervised",
    "SupervisedRecipe",
    "moco_v1",
    "moco_v2",
]
