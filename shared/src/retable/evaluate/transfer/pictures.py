"""Pictures of what a detector or a segmentation network finds, beside what there is."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retable.files import write_bytes

if TYPE_CHECKING:
    from retable.data.transfer.objects import Objects
    from retable.evaluate.transfer.detection.recipe import Detection

FILE = "predictions.png"
"""File of the picture in the folder of an evaluation: truth above, predictions below."""

SHOWN = 6
"""Test images that are drawn, the first ones."""

LEAST_SCORE = 0.5
"""Found objects of a lower score are not drawn."""

SIDE = 224
"""Side of each drawn image."""

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")


class Pair(NamedTuple):
    """An image with what there is and with what was found, uint8 (3, S, S) each."""

    truth: Tensor
    found: Tensor


def write_pairs(pairs: Sequence[Pair], folder: Path | None) -> None:
    """Write `FILE`; None writes nothing."""
    if folder is None or not pairs:
        return
    from PIL import Image
    from torchvision.utils import make_grid

    rows = [pair.truth for pair in pairs] + [pair.found for pair in pairs]
    grid = make_grid(torch.stack(rows), nrow=len(pairs), padding=4, pad_value=255)
    folder.mkdir(parents=True, exist_ok=True)
    content = BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(content, "png")
    write_bytes(folder / FILE, content.getvalue())


def draw_objects(
    image: Tensor, truth: Objects, found: Detection, class_names: Sequence[str]
) -> Pair:
    """Draw boxes with their classes, and masks if there are any, on an image uint8 (3, H, W)."""
    sure = found["scores"] >= LEAST_SCORE
    return Pair(
        _with_boxes(image, truth.boxes, truth.labels, truth.masks, class_names),
        _with_boxes(
            image,
            found["boxes"][sure],
            found["labels"][sure] - 1,
            found["masks"][sure] if "masks" in found else None,
            class_names,
        ),
    )


def draw_classes(image: Tensor, truth: Tensor, found: Tensor, classes: int) -> Pair:
    """Lay the classes (H, W) of pixels over an image uint8 (3, H, W).

    Background and pixels that do not count are left out.
    """
    return Pair(*(_with_classes(image, of, classes) for of in (truth, found)))


def _with_boxes(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    masks: Tensor | None,
    class_names: Sequence[str],
) -> Tensor:
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    colors = _colors_of(labels.tolist())
    if masks is not None and len(masks):
        image = draw_segmentation_masks(image, masks, alpha=0.4, colors=colors)
    picture, factor = _scaled(image)
    if not len(boxes):
        return picture
    names = [class_names[label] for label in labels.tolist()]
    return draw_bounding_boxes(picture, boxes * factor, names, colors, width=2)


def _with_classes(image: Tensor, classes: Tensor, count: int) -> Tensor:
    from torchvision.utils import draw_segmentation_masks

    present = [label for label in torch.unique(classes).tolist() if 0 < label < count]
    if not present:
        return _scaled(image)[0]
    masks = torch.stack([classes == label for label in present])
    colors = _colors_of(present)
    return _scaled(draw_segmentation_masks(image, masks, alpha=0.5, colors=colors))[0]


def _colors_of(labels: Sequence[int]) -> list[str | tuple[int, int, int]]:
    return [COLORS[label % len(COLORS)] for label in labels]


def _scaled(image: Tensor) -> tuple[Tensor, float]:
    """Fit an image into a square of `SIDE` on white; also return the factor of its sides."""
    factor = SIDE / max(image.shape[1:])
    shape = [max(1, round(side * factor)) for side in image.shape[1:]]
    picture = image.new_full((3, SIDE, SIDE), 255)
    fitted = F.interpolate(image[None], shape, mode="bilinear", antialias=True)[0]
    picture[:, : shape[0], : shape[1]] = fitted
    return picture, factor
