"""Settings of a detector, and what it learns from and finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from retable.domains import Count, Dim, Positive
from retable.settings import validate_fields

Target = dict[str, Tensor]
"""Objects of an image: "boxes" (N, 4), "labels" (N,) from 1, and for masks "masks" (N, H, W)."""

Detection = dict[str, Tensor]
"""Found objects: "boxes" (n, 4), "labels" (n,), "scores" (n,), perhaps "masks" (n, 1, S, S)."""


@dataclass(frozen=True)
class DetectorRecipe:
    """A detector without its encoder; the defaults are Detectron2's for photographs.

    Attributes:
        kind: "c4" predicts from the last stage but one and passes regions through the last stage
            (``R_50_C4`` with MoCo's batch norm behind it); "fpn" from a pyramid of all stages.
        masks: whether masks are predicted too (Mask R-CNN).
        sizes: of anchors, in pixels: all of them on C4's map, one on each of the pyramid's maps.
        ratios: of anchors, height to width.
        side: of the maps of regions in C4; the pyramid has 7, and 14 for masks.
        hidden: channels of the pyramid and of the masks' layers.
        usual_size: side of the regions that belong to the third map of the pyramid, in pixels.
        chosen: regions of an image that the loss is computed on.
        before: boxes of each map that non-maximum suppression sees, in training and in the test;
            None: 12,000 and 6,000 for C4, 2,000 and 1,000 for the pyramid.
        after: boxes of an image that it leaves; None: 2,000 and 1,000, or twice 1,000.
    """

    kind: Literal["c4", "fpn"] = "c4"
    masks: bool = False
    sizes: tuple[Positive, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    side: Count = 14
    hidden: Dim = 256
    usual_size: Positive = 224.0
    chosen: Count = 512
    before: tuple[Count, Count] | None = None
    after: tuple[Count, Count] | None = None

    def __post_init__(self) -> None:
        validate_fields(self)

    def shrunk(self, side: int) -> DetectorRecipe:
        """Return the recipe for images of ``side`` pixels with objects of a fifth to a half of it.

        Anchors are fewer and much less is kept of their boxes, since most of the time of a small
        network is spent on these.
        """
        sizes = tuple(side * share for share in (0.2, 0.3, 0.4, 0.5))
        return replace(
            self,
            sizes=sizes,
            side=6,
            hidden=32,
            usual_size=0.3 * side,
            chosen=64,
            before=(400, 200),
            after=(100, 50),
        )
