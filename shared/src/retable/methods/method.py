"""The interface of a method: a module whose forward pass is the loss of one training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from retable.data.batch import Batch, Progress
from retable.views.recipe import ViewRecipe

__all__ = ["Batch", "Method", "MethodRecipe", "Metrics", "Progress", "StepOutput"]


Metrics = dict[str, Tensor | float]
"""Named scalars for the log: detached tensors where a number would wait for the device."""


class StepOutput(NamedTuple):
    """Output of one training step: the loss, a scalar to differentiate, and metrics.

    Attributes:
        metrics: named scalars, logged as means over many steps.
        trace: named scalars that are stored for every step, for curves over single steps; logged as
            means too.
    """

    loss: Tensor
    metrics: Metrics
    trace: Metrics = {}  # noqa: RUF012 - a tuple's default, never changed


class Method(nn.Module):
    """Base class of methods, independent of the loop, the device and files.

    Attributes:
        encoder: the module that is evaluated and exported, images (B, 3, H, W) -> (B, F).
        accumulates: whether the loss of a batch is the mean of its parts' losses, so that gradients
            may be accumulated over micro-batches.
        passes_per_view: work of the encoder on each view, in forward passes: 3 if it is trained on
            (forward and backward), 1 if it is only encoded.
        has_pretext_metrics: whether `StepOutput.metrics` are meaningful on held-out images in
            evaluation mode, for example the accuracy of a task whose labels are known
            (`retable.train.pretext_metrics`).
    """

    encoder: nn.Module
    accumulates: bool = False
    passes_per_view: float = 3.0
    has_pretext_metrics: bool = False

    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss of one step."""
        raise NotImplementedError

    def encoder_inputs(self, sizes: Sequence[int]) -> tuple[tuple[int, float], ...]:
        """Return the encoder's inputs for one image, as pairs (side in pixels, forward passes).

        ``sizes`` are the sides of the views. Override it in a method whose encoder sees other
        inputs than the views, or the views with different work.
        """
        return tuple((size, self.passes_per_view) for size in sizes)

    def pretext_views(self, views: tuple[ViewRecipe, ...]) -> tuple[ViewRecipe, ...]:
        """Return the views in which held-out images are measured; by default those of training."""
        return views

    def after_step(self, progress: Progress) -> None:
        """Run after the optimizer's step, for example to update a target network."""


class MethodRecipe(Protocol):
    """A frozen dataclass of plain fields that builds a method around an encoder."""

    def build(self, encoder: nn.Module, rng_key: int) -> Method:
        """Return the method; ``rng_key`` determines its initial state."""
