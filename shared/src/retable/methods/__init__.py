"""The baselines that several papers start from, and the interface they share."""

from retable.methods.method import Batch, Method, Progress, StepOutput

__all__ = ["Batch", "Method", "Progress", "StepOutput"]
