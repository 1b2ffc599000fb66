"""Maps of regions: RoIAlign on one map, and on the map of a pyramid that suits a region's size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align


def as_regions(boxes: Sequence[Tensor]) -> Tensor:
    """Return boxes (N, 4) of each image as regions (M, 5) with the image's number in front."""
    numbers = [of.new_full((len(of), 1), number) for number, of in enumerate(boxes)]
    return torch.cat([torch.cat(numbers), torch.cat(list(boxes))], dim=1)


def levels(boxes: Tensor, levels: int, *, usual_size: float, usual_level: int) -> Tensor:
    """Return the map of a pyramid for each box (N, 4): (N,) int64 (arXiv 1612.03144, equation 1).

    A box of the area usual_size² belongs to ``usual_level``, one of twice the side to the next.
    """
    sides = (boxes[:, 2] - boxes[:, 0]).mul(boxes[:, 3] - boxes[:, 1]).clamp_(min=0).sqrt_()
    found = torch.floor(usual_level + torch.log2(sides / usual_size + 1e-8))
    return found.clamp(0, levels - 1).to(torch.int64)


class RegionPool(nn.Module):
    """Maps (M, C, side, side) of regions, by RoIAlign at the middles of pixels.

    Detectron2's "ROIAlignV2": aligned, with as many samples as a cell has pixels.

    Args:
        side: of the regions' maps.
        strides: of the maps, from the finest.
        usual_size: see `levels`; 224 pixels for a pyramid with strides 4 to 32.
        usual_level: 2 there.
    """

    def __init__(
        self, side: int, strides: Sequence[int], usual_size: float = 224.0, usual_level: int = 2
    ) -> None:
        super().__init__()
        self.side = side
        self.strides = tuple(strides)
        self.usual_size = usual_size
        self.usual_level = usual_level

    def forward(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: object
    ) -> Tensor:
        """Return the regions' maps, of all images in turn."""
        maps = list(features.values())[: len(self.strides)]
        regions = as_regions(boxes)
        if len(self.strides) == 1:
            return roi_align(maps[0], regions, self.side, 1 / self.strides[0], aligned=True)
        chosen = levels(
            regions[:, 1:],
            len(self.strides),
            usual_size=self.usual_size,
            usual_level=self.usual_level,
        )
        parts = [
            roi_align(of, regions[chosen == level], self.side, 1 / stride, aligned=True)
            for level, (of, stride) in enumerate(zip(maps, self.strides, strict=True))
        ]
        # Rows of the parts in the order of the regions.
        return torch.cat(parts)[chosen.argsort(stable=True).argsort()]
