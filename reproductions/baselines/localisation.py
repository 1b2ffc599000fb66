"""Regress the box of an image's object from frozen features, as a small stand-in for detection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from retable.domains import Name, Positive
from retable.errors import UserError
from retable.evaluate.data import EvalData, open_eval_splits
from retable.evaluate.features import represent
from retable.evaluate.frozen import freeze
from retable.evaluate.protocol import EvalContext, Evaluation, MetricSpec
from retable.evaluate.representation import Representation
from retable.settings import validate_fields
from retable.views import ViewRecipe, center

if TYPE_CHECKING:
    from retable.evaluate.data import OpenSource


def boxes_of(masks: Tensor) -> Tensor:
    """Return the smallest boxes around masks (n, H, W), not empty: (n, 4) as shares of the sides.

    Left, top, right and bottom edge.
    """
    sides = []
    for covered in (masks.any(1), masks.any(2)):  # columns, rows
        length = covered.shape[1]
        first = covered.to(torch.uint8).argmax(1)
        last = length - covered.flip(1).to(torch.uint8).argmax(1)
        sides.append(torch.stack([first, last], 1).float() / length)
    return torch.stack(sides, 2).flatten(1)


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of boxes (n, 4) and (n, 4), pair by pair: (n,)."""
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, 2:], second[:, 2:])
    both = (high - low).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (first, second)]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-9)


def ridge(features: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Fit weights (F, T) and offsets (T,) of targets (n, T) on standardised features (n, F).

    Minimises the mean squared error plus ``penalty`` times the squared weights.
    """
    features, targets = features.double(), targets.double()
    mean, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    x, centre = (features - mean) / scale, targets.mean(0)
    gram = x.T @ x / len(x) + penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ (targets - centre) / len(x)) / scale[:, None]
    return weight.float(), (centre - mean @ weight).float()


@dataclass(frozen=True)
class BoxRegression(Evaluation):
    """Mean overlap of boxes that ridge regression predicts from the maps of one layer.

    The data set has the layer "mask".

    Attributes:
        tap: layer whose maps are flattened; pooled features have lost the position.
        penalty: penalty of the weights of standardised features.
    """

    tap: str = "layer3"
    penalty: Positive = 1e-2
    view: ViewRecipe = field(default_factory=lambda: center(32))
    data: EvalData = field(default_factory=EvalData)
    name: Name = "box"

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_fields(self)

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Mean intersection over union of predicted and true boxes of test images."""
        return {"iou": MetricSpec("Overlap of boxes", "%", higher_is_better=True)}

    def run(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext, *, seed: int
    ) -> dict[str, float]:
        """Fit on the training images and return `metrics`; nothing is drawn."""
        splits = open_eval_splits(open_source, self.data)
        frozen = freeze(encoder, context.device, context.precision)
        features, boxes = [], []
        for source in (splits.train, splits.test):
            found = represent(frozen, source, self.view, Representation((self.tap,)), context)
            features.append(found[self.tap].features)
            masks = source.resident_layer("mask")
            if not isinstance(masks, Tensor):
                raise UserError("The data set must have masks of one size. Choose shapes.")
            boxes.append(boxes_of(masks[:, 0] > 0).to(frozen.device))
        weight, offset = ridge(features[0], boxes[0], self.penalty)
        return {"iou": 100.0 * float(overlap(features[1] @ weight + offset, boxes[1]).mean())}
