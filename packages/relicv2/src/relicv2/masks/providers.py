"""Where masks come from: handcrafted maps, or a network that learned from them.

The built-in data set knows its objects: its layer ``mask`` needs no provider.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from relicv2.saliency.dense_crf import DenseCRF
from relicv2.saliency.handcrafted import fused
from relicv2.saliency.network import SaliencyNetwork, load_network
from retable.domains import Pixels, Share, Words
from retable.settings import to_plain, validate_fields
from retable.weights.weights_files import file_digest


@dataclass(frozen=True, kw_only=True)
class Provider(ABC):
    """Makes masks of the probability of each pixel to be foreground.

    Attributes:
        side: longer side that larger images are reduced to before, in pixels.
        field: whether the probabilities are refined by a dense random field
            (`relicv2.saliency.dense_crf`).
        threshold: probability from which a pixel is foreground.
    """

    side: Pixels
    field: bool = True
    threshold: Share = 0.5

    def __post_init__(self) -> None:
        validate_fields(self)

    @property
    def at_once(self) -> int:
        """One image at a time: images differ in size."""
        return 1

    @property
    def settings(self) -> object:
        """The fields as plain values."""
        return to_plain(self)

    @abstractmethod
    def probabilities(self, image: Tensor, device: str) -> Tensor:
        """Return probabilities (H, W) on CPU of an image uint8 (3, H, W), without the field."""

    def make(self, images: Sequence[Tensor], names: Sequence[str], device: str) -> Sequence[Tensor]:
        """Return the masks uint8 (1, H, W), 0 or 255, of images uint8 (3, H, W)."""
        return [self._mask(image, device) for image in images]

    def _mask(self, image: Tensor, device: str) -> Tensor:
        reduced = reduced_to(image, self.side)
        found = self.probabilities(reduced, device)
        if self.field:
            found = torch.from_numpy(DenseCRF().refine(found.double().numpy(), reduced))
        return as_mask(found, image, self.threshold)


@dataclass(frozen=True, kw_only=True)
class Handcrafted(Provider):
    """The mean of the four handcrafted maps."""

    side: Pixels = 320

    def probabilities(self, image: Tensor, device: str) -> Tensor:
        """Return the mean of the maps."""
        return torch.from_numpy(fused(image))


@dataclass(frozen=True, kw_only=True)
class Learned(Provider):
    """The foreground that a saliency network sees.

    Attributes:
        network: its file, see `relicv2.saliency.network.save_network`.
        digest: SHA-256 of the file: masks of another network are other masks, wherever it lies.
    """

    network: Words
    digest: Words

    @property
    def settings(self) -> object:
        """The fields but the place of the file as plain values."""
        return {name: value for name, value in to_plain(self).items() if name != "network"}

    def probabilities(self, image: Tensor, device: str) -> Tensor:
        """Return what the network predicts."""
        return _loaded(self.network, device).predict(image.to(device)).cpu()


def learned(network: Path, **settings: Any) -> Learned:
    """Return the provider of a network's file; further arguments are fields of `Learned`.

    Unless ``side`` is given, it is that of the images that the network was trained on.

    Raises:
        UserError: the file is no saliency network.
    """
    settings.setdefault("side", load_network(network).side)
    return Learned(network=str(network), digest=file_digest(network), **settings)


@functools.cache
def _loaded(network: str, device: str) -> SaliencyNetwork:
    return load_network(network).to(device)


def reduced_to(image: Tensor, side: int) -> Tensor:
    """Return an image uint8 (3, H, W) with a longer side of at most ``side`` pixels."""
    longer = max(image.shape[1:])
    if longer <= side:
        return image
    size = [max(1, round(extent * side / longer)) for extent in image.shape[1:]]
    smaller = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)
    return smaller.round().to(torch.uint8)[0]


def as_mask(probability: Tensor, image: Tensor, threshold: float) -> Tensor:
    """Enlarge probabilities (h, w) to an image's size and binarise: uint8 (1, H, W), 0 or 255."""
    size = list(image.shape[1:])
    full = F.interpolate(probability[None, None].float(), size, mode="bilinear")[0]
    return (full > threshold).to(torch.uint8) * 255
