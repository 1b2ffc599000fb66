"""What a method is: a module whose forward is one training step's loss."""

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
    """What a step gives back.

    Attributes:
        loss: the scalar to differentiate.
        metrics: named scalars, logged as means over many steps.
        trace: named scalars that are kept of every step, for curves of single steps; logged as
            means too.
    """

    loss: Tensor
    metrics: Metrics
    trace: Metrics = {}  # noqa: RUF012 - a tuple's default, never changed


class Method(nn.Module):
    """Base of every method: it knows no loop, no device and no file.

    Attributes:
        encoder: the module that is evaluated and exported, images (B, 3, H, W) -> (B, F).
        accumulates: whether the loss of a batch is the mean of its parts' losses, so that gradients
            may be accumulated over micro-batches.
        passes_per_view: the encoder's work on each view of an image, in forward passes: 3 for one
            that is trained on (forward and backward), 1 for one that is only encoded.
        has_pretext_metrics: whether the scalars of `StepOutput.metrics` mean something on images
            that are not
            trained on, in evaluation mode: the accuracy in a task whose labels are at hand, for
            instance (`retable.train.pretext_metrics`).
    """

    encoder: nn.Module
    accumulates: bool = False
    passes_per_view: float = 3.0
    has_pretext_metrics: bool = False

    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss of one step."""
        raise NotImplementedError

    def encoder_inputs(self, sizes: Sequence[int]) -> tuple[tuple[int, float], ...]:
        """Return what the encoder is given for one image: pairs of a side and of forward passes.

        Args:
            sizes: side of each view in pixels.

        Returns:
            The side of an input in pixels and the passes at that side, which need not be whole. A
            method whose encoder sees anything but the views, all in one way, overrides this.
        """
        return tuple((size, self.passes_per_view) for size in sizes)

    def pretext_views(self, views: tuple[ViewRecipe, ...]) -> tuple[ViewRecipe, ...]:
        """Return the views in which held-out images are measured: by default those of training."""
        return views

    def after_step(self, progress: Progress) -> None:
        """Act after the optimizer's step, for instance by moving a target network."""


class MethodRecipe(Protocol):
    """A frozen dataclass of plain fields that builds a method around an encoder."""

    def build(self, encoder: nn.Module, rng_key: int) -> Method:
        """Return the method; ``rng_key`` is the source of every draw of its first state."""
