"""Images of segmentation: scaled, flipped, cut to one size, with the classes of their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retable.data.batch import Batch
from retable.data.sampler import Sampler
from retable.data.source import Source
from retable.data.transfer.pixel_classes import IGNORED, SEMANTIC
from retable.domains import Pixels, Positive, Probability
from retable.errors import UserError
from retable.evaluate.transfer.loading import ExampleLoader, normalised
from retable.random import derive_key, uniform
from retable.settings import validate_fields


@dataclass(frozen=True)
class CropRecipe:
    """Crops of training images; the defaults are MoCo's for PASCAL VOC (arXiv 1911.05722).

    Attributes:
        size: side of a crop in pixels (Cityscapes: 769). Where the scaled image is smaller, what
            lies beyond it is 0 after normalisation and does not count.
        scales: least and largest factor of an image's sides (0.5 and 2 are unverified).
        flip_probability: of training images.
    """

    size: Pixels = 513
    scales: tuple[Positive, Positive] = (0.5, 2.0)
    flip_probability: Probability = 0.5

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.scales[0] > self.scales[1]:
            raise UserError(f"`scales` must be ascending, got {self.scales}. Exchange them.")


class Crop(NamedTuple):
    """A crop: image uint8 (3, h, w) and classes uint8 (h, w), of at most the recipe's size."""

    image: Tensor
    classes: Tensor


def scaled_crop(
    image: Tensor, classes: Tensor, size: int, scale: float, place: tuple[float, float], flip: bool
) -> Crop:
    """Scale an image uint8 (3, H, W) and its classes (H, W), and cut ``size`` pixels out.

    Args:
        image: of any size.
        classes: of its pixels.
        size: side of the crop; less where the scaled image is smaller.
        scale: factor of the sides.
        place: where the crop lies, as a share in [0, 1) of the room that there is, down and right.
        flip: whether to mirror it.
    """
    shape = [max(1, round(side * scale)) for side in image.shape[1:]]
    if shape != list(image.shape[1:]):
        image = F.interpolate(image[None], shape, mode="bilinear", antialias=True)[0]
        classes = F.interpolate(classes[None, None], shape, mode="nearest-exact")[0, 0]
    rows, columns = (
        slice(start := int(share * (max(side - size, 0) + 1)), start + size)
        for share, side in zip(place, shape, strict=True)
    )
    image, classes = image[:, rows, columns], classes[rows, columns]
    return Crop(image.flip(2), classes.flip(1)) if flip else Crop(image, classes)


class SegmentationLoader(ExampleLoader[Crop, Batch]):
    """Training batches of one view with the layer "semantic"."""

    def __init__(
        self,
        source: Source,
        recipe: CropRecipe,
        *,
        batch: int,
        seed: int,
        epochs: int,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        sampler = Sampler(len(source), batch, seed)
        super().__init__(
            source, sampler, batch=batch, epochs=epochs, workers=workers, device=device
        )
        self.recipe = recipe

    def examples(self, step: int, indices: Tensor) -> list[Crop]:
        """Return a crop of each image."""
        epoch, seed = self.sampler.epoch(step), self.sampler.seed
        scales, rows, columns, flips = (
            uniform(derive_key(seed, "segmentation", what, epoch), indices).tolist()
            for what in ("scales", "rows", "columns", "flips")
        )
        low, high = self.recipe.scales
        found = []
        for number, index in enumerate(indices.tolist()):
            sample = self.source.sample(index, (SEMANTIC,))
            found.append(
                scaled_crop(
                    sample.image,
                    sample.layers[SEMANTIC][0],
                    self.recipe.size,
                    low + (high - low) * scales[number],
                    (rows[number], columns[number]),
                    flips[number] < self.recipe.flip_probability,
                )
            )
        return found

    def batch(self, examples: Sequence[Crop], **places: Any) -> Batch:
        """Return crops as one view, padded to the recipe's size."""
        size = self.recipe.size
        view = torch.zeros(len(examples), 3, size, size, device=self.device)
        classes = torch.full((len(examples), 1, size, size), IGNORED, dtype=torch.uint8)
        for row, crop in enumerate(examples):
            height, width = crop.classes.shape
            view[row, :, :height, :width] = normalised(crop.image, self.device)
            classes[row, 0, :height, :width] = crop.classes
        layers = ({SEMANTIC: classes.to(self.device, non_blocking=True)},)
        return Batch(views=(view,), layers=layers, **places)
