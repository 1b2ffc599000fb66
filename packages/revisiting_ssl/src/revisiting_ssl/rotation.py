"""Rotation: predict the multiple of 90 degrees by which an image has been rotated.

Gidaris, Singh and Komodakis (ICLR 2018), as Kolesnikov et al. (CVPR 2019) train it: one augmented
crop of each image, all four rotations of that same crop in the batch, a linear layer to four
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retable.errors import UserError
from retable.methods.method import Batch, Method, StepOutput
from retable.methods.multi_crop import by_image, side_by_side
from retable.nn.checks import Shaped, check_least, check_shapes
from revisiting_ssl.task import classified, only_view, output_layer

ROTATIONS = 4


def rotations(images: Tensor) -> Tensor:
    """Turn each image (B, 3, S, S) by 0, 90, 180 and 270 degrees counter-clockwise, exactly.

    Returns:
        (4 B, 3, S, S), the four of an image side by side, in the images' memory format;
        `rotation_labels` are their classes.
    """
    check_shapes(Shaped("images", images, "B C H W", kind="any"))
    height, width = images.shape[-2:]
    if height != width:
        raise UserError(
            f"`images` must be square to be rotated by 90 degrees in one batch, got {height} x "
            f"{width} pixels. Crop them first."
        )
    turned = [torch.rot90(images, quarters, (2, 3)) for quarters in range(1, ROTATIONS)]
    return side_by_side([images, *turned]).flatten(0, 1)


def rotation_labels(images: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the classes of the rotations of so many images: (4 B,) int64.

    >>> rotation_labels(2)
    tensor([0, 1, 2, 3, 0, 1, 2, 3])
    """
    check_least(1, images=images)
    return torch.arange(ROTATIONS, device=device).repeat(images)


@dataclass(frozen=True)
class RotationRecipe:
    """Recipe of Rotation, which has no fields. Its view is one of `retable.views.inception`."""

    def build(self, encoder: nn.Module, rng_key: int) -> Rotation:
        """Return the method; ``rng_key`` draws the linear layer's weights."""
        return Rotation(encoder, self, rng_key)


class Rotation(Method):
    """Classify the four rotations of a view."""

    accumulates = True
    has_pretext_metrics = True

    def __init__(self, encoder: nn.Module, recipe: RotationRecipe, rng_key: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.encoder = encoder
        self.embed = output_layer(encoder, ROTATIONS, rng_key)

    def encoder_inputs(self, sizes: Sequence[int]) -> tuple[tuple[int, float], ...]:
        """Return the four rotations, each forward and backward, at the view's size."""
        return ((sizes[0], 3.0 * ROTATIONS),)

    def logits(self, batch: Batch) -> Tensor:
        """Return the scores (4 B_r, 4) of all rotations, those of an image side by side."""
        view = only_view(batch, "Rotation", "retable.views.inception")
        turned = rotations(view).view(len(view), ROTATIONS, *view.shape[1:])
        scores: Tensor = self.embed(by_image(self.encoder, turned).flatten(0, 1))
        return scores.float()

    def forward(self, batch: Batch) -> StepOutput:
        """Return the cross-entropy of all rotations of one view."""
        logits = self.logits(batch)
        return classified(logits, rotation_labels(len(logits) // ROTATIONS, logits.device))
