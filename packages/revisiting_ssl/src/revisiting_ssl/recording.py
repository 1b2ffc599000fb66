"""One step of a pretext task on a few images, with an encoder that records its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retable.data.loader import Loader
from retable.data.sampler import Sampler
from retable.data.source import TRAIN
from retable.data.sources import open_source
from retable.errors import UserError
from retable.methods.method import Batch, Method, MethodRecipe
from retable.nn.patches import PatchGrid
from retable.views import ViewRecipe, inception, patch_tasks
from revisiting_ssl.exemplar import ExemplarRecipe
from revisiting_ssl.jigsaw import JigsawRecipe
from revisiting_ssl.relative_patch_location import RelativePatchLocationRecipe
from revisiting_ssl.rotation import RotationRecipe

TASKS = ("rotation", "exemplar", "jigsaw", "relative_patch_location")


class RecordingEncoder(nn.Module):
    """An encoder that records its inputs (n, 3, H, W) and returns the means of their channels."""

    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean of each channel (n, 3)."""
        self.seen.append(images)
        return images.mean(dim=(2, 3))


@dataclass(frozen=True)
class RecordedStep:
    """One step of a method, with the inputs of its encoder.

    Attributes:
        method: method that made the step.
        batch: batch of the step.
        originals: the B images before any view was made of them, uint8 (3, H, W) each.
        inputs: (B, n, 3, H, W), the encoder's inputs of each image, in the order of the batch.
    """

    method: Method
    batch: Batch
    originals: list[Tensor]
    inputs: Tensor


def recipes(task: str, size: int) -> tuple[MethodRecipe, tuple[ViewRecipe, ...]]:
    """Return a task's method and views for images of a size in pixels, in the paper's proportions.

    At 255 pixels the patches are the paper's, 64 of 85.
    """
    if task == "rotation":
        return RotationRecipe(), (inception(size),)
    if task == "exemplar":
        view = inception(size, standardise=True, gray_probability=0.66)
        return ExemplarRecipe(dim=1, mining_group_images=2), (view,) * 8
    cell = size // 3
    grid = PatchGrid(cell=cell, patch=round(cell * 64 / 85))
    view = patch_tasks(grid.side, round(grid.side * 292 / 255))
    if task == "jigsaw":
        return JigsawRecipe(grid, embed_dim=1, hidden_dim=1), (view,)
    if task == "relative_patch_location":
        return RelativePatchLocationRecipe(grid, embed_dim=1, hidden_dim=1), (view,)
    raise UserError(f"`task` must be one of {', '.join(TASKS)}, got {task!r}.")


def record_step(task: str, data: str, *, images: int, size: int, seed: int = 0) -> RecordedStep:
    """Make the first step of a training on a data set, and record the encoder's inputs.

    Args:
        task: one of `TASKS`.
        data: name of a data set, see `retable.data.sources.open_source`.
        images: number of images of the batch.
        size: side of the views in pixels, rounded down to a multiple of 3 for patches.
        seed: seed of the choice of images and of every other draw.
    """
    method_recipe, views = recipes(task, size)
    encoder, source = RecordingEncoder(), open_source(data, TRAIN)
    method = method_recipe.build(encoder, seed).eval()
    # Exemplar compares images: an odd one is drawn, but not shown.
    sampler = Sampler(len(source), images + images % 2, seed)
    (batch,) = Loader(source, sampler, views, resident=False).batches(0, 1)
    with torch.no_grad():
        method(batch)
    (seen,) = encoder.seen
    originals = [source.image(index) for index in batch.indices.tolist()[:images]]
    inputs = seen.view(len(batch.indices), -1, *seen.shape[1:])[:images]
    return RecordedStep(method, batch, originals, inputs)
