"""Several crops of an image through one network, one pass for all crops of one size.

Batch norm then normalises the crops of one size together, as in the official code of SimCLR and
SwAV, and one of its groups (`PretrainRecipe.bn_group`) holds all these crops of its images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from retable.nn.batch_norm import rows_per_image


def encode_crops(encoder: nn.Module, crops: Sequence[Tensor]) -> Tensor:
    """Encode V crops (B, 3, H, W) of each image, consecutive ones of equal size in one pass.

    Crops of one size must be consecutive. Returns (B, V, F) in the order of the crops.
    """
    of_one_size = (list(run) for _, run in groupby(crops, key=lambda crop: crop.shape[-2:]))
    return torch.cat([by_image(encoder, side_by_side(run)) for run in of_one_size], dim=1)


def by_image(network: nn.Module, rows: Tensor) -> Tensor:
    """Apply a network to (B, V, ...), V rows of each image, in one pass; return (B, V, ...)."""
    with rows_per_image(network, rows.shape[1]):
        output: Tensor = network(rows.flatten(0, 1))
    return output.view(*rows.shape[:2], *output.shape[1:])


def side_by_side(crops: Sequence[Tensor]) -> Tensor:
    """Stack crops (B, 3, H, W) as (B, V, 3, H, W), keeping their memory format."""
    if not crops[0].is_contiguous(memory_format=torch.channels_last):
        return torch.stack(list(crops), dim=1)
    by_pixel = torch.stack([crop.permute(0, 2, 3, 1) for crop in crops], dim=1)
    return by_pixel.permute(0, 1, 4, 2, 3)
