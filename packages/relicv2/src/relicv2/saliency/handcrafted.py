"""The four handcrafted maps and their fusion, a mask without any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from relicv2.saliency.absorbing_chain import absorbing_chain
from relicv2.saliency.dense_crf import DenseCRF
from relicv2.saliency.manifold_ranking import manifold_ranking
from relicv2.saliency.rbd import rbd
from relicv2.saliency.reconstruction import reconstruction
from relicv2.saliency.superpixels import Floats
from retable import extras

MAPS: Mapping[str, Callable[[Tensor], Floats]] = {
    "rbd": rbd,
    "mr": manifold_ranking,
    "mc": absorbing_chain,
    "dsr": reconstruction,
}
"""The methods of section F.2.1 by the paper's abbreviations."""


def require_libraries() -> None:
    """Raise a UserError where the libraries of the handcrafted maps are not installed."""
    for module in ("skimage", "scipy"):
        extras.require(module, "saliency", "A handcrafted saliency map", "retable-relicv2")


def fused(image: Tensor, crf: DenseCRF | None = None) -> Floats:
    """Return the mean of the four maps, or the foreground's probability after a ``crf``, (H, W)."""
    mean = np.mean([method(image) for method in MAPS.values()], axis=0)
    return mean if crf is None else crf.refine(mean, image)


def handcrafted_mask(image: Tensor, crf: DenseCRF | None = None) -> Tensor:
    """Return the mask (H, W) bool of an image uint8 (3, H, W): the fusion above 1/2."""
    return torch.from_numpy(fused(image, crf) > 0.5)
