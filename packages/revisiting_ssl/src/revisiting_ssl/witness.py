"""One step of a pretext task on a few images, with an encoder that keeps what it is given."""

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


class Witness(nn.Module):
    """An encoder that keeps its input (n, 3, H, W) and answers with its means.

    >>> witness = Witness()
    >>> witness(torch.zeros(2, 3, 8, 8)).shape, witness.seen[0].shape
    (torch.Size([2, 3]), torch.Size([2, 3, 8, 8]))
    """

    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean of each channel (n, 3)."""
        self.seen.append(images)
        return images.mean(dim=(2, 3))


@dataclass(frozen=True)
class Step:
    """One step of a method, witnessed.

    Attributes:
        method: the method.
        batch: what it was given.
        originals: the B images before any view was made of them, uint8 (3, H, W) each.
        inputs: (B, n, 3, H, W), what the encoder was given of each image, in the batch's order.
    """

    method: Method
    batch: Batch
    originals: list[Tensor]
    inputs: Tensor


def recipes(task: str, size: int) -> tuple[MethodRecipe, tuple[ViewRecipe, ...]]:
    """Return a task's method and views for images of a size in pixels, in the paper's proportions.

    At 255 pixels the patches are the paper's, 64 of 85.

    Raises:
        UserError: the task is unknown.
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
    raise UserError(f"The task {task!r} is unknown: expected one of {', '.join(TASKS)}.")


def witness(task: str, data: str, *, images: int, size: int, seed: int = 0) -> Step:
    """Make the first step of a training on a data set, and keep what the encoder is given.

    Args:
        task: one of the four.
        data: a data set by its name, see `retable.data.sources.open_source`.
        images: images of the batch.
        size: side of the views in pixels, rounded down to a multiple of 3 for patches.
        seed: which images, and every draw.
    """
    method_recipe, views = recipes(task, size)
    encoder, source = Witness(), open_source(data, TRAIN)
    method = method_recipe.build(encoder, seed).eval()
    # Exemplar compares images: an odd one is drawn, but not shown.
    sampler = Sampler(len(source), images + images % 2, seed)
    (batch,) = Loader(source, sampler, views, resident=False).batches(0, 1)
    with torch.no_grad():
        method(batch)
    (seen,) = encoder.seen
    originals = [source.image(index) for index in batch.indices.tolist()[:images]]
    inputs = seen.view(len(batch.indices), -1, *seen.shape[1:])[:images]
    return Step(method, batch, originals, inputs)
