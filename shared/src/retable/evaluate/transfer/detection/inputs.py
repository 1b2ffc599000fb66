"""Images of a detector: resized by their short side, flipped, padded to one size, with objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from retable.data.batch import Progress
from retable.data.transfer.objects import Objects, ObjectSource
from retable.domains import Pixels, Probability
from retable.evaluate.transfer.detection.aspects import AspectSampler
from retable.evaluate.transfer.detection.recipe import Target
from retable.evaluate.transfer.loading import ExampleLoader, normalised
from retable.random import derive_key, integers, uniform
from retable.settings import validate_fields


@dataclass(frozen=True)
class InputRecipe:
    """Sizes of images; the defaults are Detectron2's for VOC.

    Attributes:
        sides: short sides in pixels, of which one is drawn for each training image.
        longest: longest side that an image may have after that.
        flip_probability: of training images.
        test_side: short side of test images.
    """

    sides: tuple[Pixels, ...] = tuple(range(480, 801, 32))
    longest: Pixels = 1333
    flip_probability: Probability = 0.5
    test_side: Pixels = 800

    def __post_init__(self) -> None:
        validate_fields(self)

    @classmethod
    def around(cls, side: int) -> Self:
        """Return the recipe with test images of another side, and all others in proportion."""
        share = side / cls.test_side
        sides = tuple(sorted({round(one * share) for one in cls().sides}))
        return cls(sides, longest=round(cls.longest * share), test_side=side)


@dataclass(frozen=True)
class DetectionBatch:
    """One process's share of a global batch of images.

    Attributes:
        images: (B_r, 3, H, W) uint8, padded at the right and below; see `network_input`.
        shapes: height and width of each image without padding.
        targets: objects of each image.
        labels: (B_r,) -1.
        indices: (B_r,) int64 positions in the data set.
        positions: (B_r,) int64 positions in the global batch.
        rng_key: the random key of the step.
    """

    images: Tensor
    shapes: tuple[tuple[int, int], ...]
    targets: tuple[Target, ...]
    labels: Tensor
    indices: Tensor
    positions: Tensor
    progress: Progress
    rng_key: int

    def rows(self, rows: slice) -> DetectionBatch:
        """Return some images of the batch, for instance a micro-batch."""
        return replace(
            self,
            images=self.images[rows],
            shapes=self.shapes[rows],
            targets=self.targets[rows],
            labels=self.labels[rows],
            indices=self.indices[rows],
            positions=self.positions[rows],
        )


@dataclass(frozen=True)
class Example:
    """A finished image: uint8 (3, h, w), with its objects."""

    image: Tensor
    objects: Objects


def resized_shape(height: int, width: int, side: int, longest: int) -> tuple[int, int]:
    """Return the shape with the short side ``side``, less where the long one would be too long.

    >>> resized_shape(375, 500, 800, 1333), resized_shape(300, 900, 800, 1333)
    ((800, 1067), (444, 1333))
    """
    scale = side / min(height, width)
    if scale * max(height, width) > longest:
        scale = longest / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def resize_image(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return an image uint8 (3, H, W) at another size; where it becomes smaller it is averaged."""
    if shape == tuple(image.shape[1:]):
        return image
    return F.interpolate(image[None], shape, mode="bilinear", antialias=True)[0]


def resize(image: Tensor, objects: Objects, shape: tuple[int, int], *, flip: bool) -> Example:
    """Return an image uint8 (3, H, W) and its objects at another size, perhaps mirrored."""
    height, width = image.shape[1:]
    factors = torch.tensor([shape[1] / width, shape[0] / height]).repeat(2)
    boxes, masks = objects.boxes * factors, objects.masks
    image = resize_image(image, shape)
    if masks is not None and shape != (height, width):
        if len(masks):
            masks = F.interpolate(masks[None].to(torch.uint8), shape, mode="nearest-exact")[0] > 0
        else:
            masks = masks.new_zeros(0, *shape)
    if flip:
        image = image.flip(2)
        masks = None if masks is None else masks.flip(2)
        left, right = shape[1] - boxes[:, 2], shape[1] - boxes[:, 0]
        boxes = torch.stack([left, boxes[:, 1], right, boxes[:, 3]], dim=1)
    return Example(image, replace(objects, boxes=boxes, masks=masks))


def padded(images: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
    """Return images (3, h, w) as one batch (B, 3, *shape), with zeros at the right and below."""
    found = images[0].new_zeros(len(images), 3, *shape)
    for row, image in zip(found, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return found


def network_input(images: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Return padded images uint8 (B, 3, H, W) of some shapes normalised, with zeros as padding."""
    found = normalised(images, images.device)
    for image, (height, width) in zip(found, shapes, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return found


def covering(shapes: Sequence[tuple[int, int]], divisor: int) -> tuple[int, int]:
    """Return the least height and width, multiples of ``divisor``, that images fit into.

    >>> covering([(5, 9), (6, 2)], 4)
    (8, 12)
    """
    height, width = (-(-max(sides) // divisor) * divisor for sides in zip(*shapes, strict=True))
    return height, width


def target_of(objects: Objects, device: torch.device) -> Target:
    """Return what a detector learns from: all objects but crowds, with classes from 1."""
    kept = objects.where(~objects.crowd)
    found = {"boxes": kept.boxes.to(device), "labels": (kept.labels + 1).to(device)}
    return found if kept.masks is None else found | {"masks": kept.masks.to(device)}


class DetectionLoader(ExampleLoader[Example, DetectionBatch]):
    """Training batches of a source of objects.

    Images without objects are left out, and a batch has images of one orientation.

    Raises:
        UserError: fewer images are left than a batch has.
    """

    source: ObjectSource

    def __init__(
        self,
        source: ObjectSource,
        recipe: InputRecipe,
        *,
        batch: int,
        seed: int,
        epochs: int,
        divisor: int = 1,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        sampler = AspectSampler.of(source, batch, seed)
        super().__init__(
            source, sampler, batch=batch, epochs=epochs, workers=workers, device=device
        )
        self.recipe, self.divisor = recipe, divisor

    def examples(self, step: int, indices: Tensor) -> list[Example]:
        """Return images of drawn sizes with their objects."""
        key = derive_key(self.sampler.seed, "detection", "flips", self.sampler.epoch(step))
        flipped = (uniform(key, indices) < self.recipe.flip_probability).tolist()
        found = []
        for index, shape, flip in zip(
            indices.tolist(), self._shapes(step, indices), flipped, strict=True
        ):
            image, objects = self.source.image(index), self.source.objects(index)
            found.append(resize(image, objects, shape, flip=flip))
        return found

    def _shapes(self, step: int, indices: Tensor) -> list[tuple[int, int]]:
        """Return the drawn heights and widths of images."""
        key = derive_key(self.sampler.seed, "detection", "sides", self.sampler.epoch(step))
        places = integers(key, indices, len(self.recipe.sides)).tolist()
        return [
            resized_shape(
                *self.source.size_of(index), self.recipe.sides[place], self.recipe.longest
            )
            for index, place in zip(indices.tolist(), places, strict=True)
        ]

    def batch(self, examples: Sequence[Example], **places: Any) -> DetectionBatch:
        """Return padded images with their targets.

        The padding is that of the global batch, since batch norm's statistics contain it.
        """
        step = places["progress"].step
        shapes = self._shapes(step, self.sampler.global_batch(step))
        images = [one.image.to(self.device, non_blocking=True) for one in examples]
        return DetectionBatch(
            images=padded(images, covering(shapes, self.divisor)),
            shapes=tuple((one.image.shape[1], one.image.shape[2]) for one in examples),
            targets=tuple(target_of(one.objects, self.device) for one in examples),
            **places,
        )
