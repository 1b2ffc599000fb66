"""Features that a classifier gets: layers, their pooling, of the view or of its patches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from retable.domains import Count
from retable.errors import UserError
from retable.nn.patches import PatchGrid, cut_patches
from retable.settings import validate_fields

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.evaluate.frozen import FrozenEncoder
    from retable.views import ViewRecipe

Value = TypeVar("Value")

PRE_LOGITS = "pre_logits"
"""The tap that every encoder has: its pooled features."""


def pooled(maps: Tensor, max_features: int = 9000) -> Tensor:
    """Flatten maps, first max-pooled if they hold more than ``max_features`` numbers an image.

    Windows of s = ceil(sqrt(C h w / max_features)) pixels, at most the shorter side, at a stride of
    s, without padding: rows and columns beyond the last complete window are left out (Kolesnikov et
    al. 2019, official code ``utils.py``, `adaptive_pool`, mode ``max``; 9000 in both its evaluation
    scripts). The result (B, F) exceeds it only where the channels alone do. Maps are (B, C, h, w),
    or (B, F), which are returned as they are.
    """
    if maps.ndim == 2:
        return maps
    _, channels, height, width = maps.shape
    window = math.ceil(math.sqrt(channels * height * width / max_features))
    window = min(window, height, width)
    return F.max_pool2d(maps, window).flatten(1) if window > 1 else maps.flatten(1)


@dataclass(frozen=True)
class Representation:
    """Features of an image that a classifier gets.

    Attributes:
        taps: layers, each evaluated by itself; every encoder has "pre_logits", its pooled features,
            and ours name the others in ``tap_names``.
        max_features: see `pooled`.
        patches: cut the view into patches, without jitter, and average their features;
            layers are pooled for each patch, before the mean. None: the view as it is.
    """

    taps: tuple[str, ...] = (PRE_LOGITS,)
    max_features: Count = 9000
    patches: PatchGrid | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_fields(self)
        if not self.taps or len(set(self.taps)) < len(self.taps):
            raise UserError(f"`taps` must name one or more layers, each once, got {self.taps}.")

    def joined(self, metrics: Mapping[str, Mapping[str, Value]]) -> dict[str, Value]:
        """Join the taps' metrics: the last tap's by name and, of several taps, each as name@tap."""
        result = dict(metrics[self.taps[-1]])
        if len(self.taps) > 1:
            for tap in self.taps:
                result |= {f"{name}@{tap}": value for name, value in metrics[tap].items()}
        return result

    def of(self, frozen: FrozenEncoder, views: Tensor) -> dict[str, Tensor]:
        """Return the vectors (B, F) of views (B, 3, S, S) by tap, float32, on the device."""
        images = views
        if self.patches is not None:
            images = cut_patches(views, self.patches, None, None).flatten(0, 1)
        vectors = {
            name: pooled(maps, self.max_features)
            for name, maps in frozen.taps(images, self.taps).items()
        }
        if self.patches is None:
            return vectors
        return {
            name: vector.view(len(views), -1, vector.shape[1]).mean(1)
            for name, vector in vectors.items()
        }


def images_per_call(device: torch.device | str, representation: Representation) -> int:
    """Return how many images go through a frozen encoder at once; it changes speed, not results.

    A power of two, so that batches end where chunks of the feature cache do.
    """
    images = 512 if torch.device(device).type == "cuda" else 128
    if representation.patches is None:
        return images
    patches = representation.patches.count
    return max(1, images >> (patches - 1).bit_length())


@dataclass(frozen=True)
class EncoderPasses:
    """Passes of a source's views through a frozen encoder; ``workers`` processes decode images."""

    frozen: FrozenEncoder
    source: Source
    view: ViewRecipe
    representation: Representation
    workers: int = 0

    def batches(
        self, rows: Tensor, rng_key: int | None = None
    ) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
        """Send the images of rows (n,) through the encoder, in their order, in this process.

        Yields vectors (B, F) by tap, labels (B,), and the samples that were read (B,), all on the
        device; an unreadable sample has those of its replacement (`retable.data.loader.iterate`).
        """
        from retable.data.loader import iterate

        device = self.frozen.device
        size = images_per_call(device, self.representation)
        for views, labels, samples in iterate(
            self.source,
            self.view,
            size,
            rng_key=rng_key,
            workers=self.workers,
            device=device,
            rows=rows,
        ):
            yield self.representation.of(self.frozen, views), labels, samples


def not_finite(odd: int, images: int) -> UserError:
    """Return the error about features that no classifier can learn from."""
    return UserError(
        f"the encoder's features of {odd} of {images} images are not finite: expected finite "
        "numbers, so check the checkpoint or evaluate in float32."
    )
