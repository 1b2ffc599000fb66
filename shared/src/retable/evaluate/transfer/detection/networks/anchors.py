"""Anchors: boxes of fixed sizes and ratios around every place of a feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Return the anchors of one place, around 0: (A, 4) as x0, y0, x1, y1.

    For every size in turn one anchor of each ratio of height to width, with the area size². They
    are not rounded, as in Detectron2; torchvision rounds them and has every ratio in turn.

    >>> cell_anchors([4.0], [1.0, 4.0])
    tensor([[-2., -2.,  2.,  2.],
            [-1., -4.,  1.,  4.]])
    """
    half = [
        (0.5 * size / ratio**0.5, 0.5 * size * ratio**0.5) for size in sizes for ratio in ratios
    ]
    return torch.tensor([(-width, -height, width, height) for width, height in half])


def grid_anchors(cell: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Return the anchors of a map, row by row: (height * width * A, 4).

    Place (0, 0) of the map lies at the image's pixel (0, 0), the next one ``stride`` further.
    """
    rows, columns = (
        torch.arange(side, device=cell.device, dtype=cell.dtype) * stride
        for side in (height, width)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    places = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (places + cell).reshape(-1, 4)


class Anchors(nn.Module):
    """Anchors of several maps of an image, in torchvision's interface of an anchor generator.

    Args:
        sizes: for each map the sizes in pixels.
        ratios: of height to width, of every map.
        strides: pixels between neighbouring places of each map. torchvision divides the padded
            image by the map instead, which is less where the image is no multiple of the stride.
    """

    def __init__(
        self, sizes: Sequence[Sequence[float]], ratios: Sequence[float], strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        for level, of_level in enumerate(sizes):
            cell = cell_anchors(of_level, ratios)
            self.register_buffer(f"cell{level}", cell, persistent=False)
        self.counts = [len(of_level) * len(ratios) for of_level in sizes]

    def num_anchors_per_location(self) -> list[int]:
        """Return the number of anchors of a place of each map."""
        return self.counts

    def forward(self, images: ImageList, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the anchors (N, 4) of all maps for each image, which are the same."""
        found = [
            grid_anchors(
                self.get_buffer(f"cell{level}"), feature.shape[-2], feature.shape[-1], stride
            )
            for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True))
        ]
        return [torch.cat(found)] * len(images.image_sizes)
