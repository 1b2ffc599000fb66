"""A fully convolutional network around an encoder, as MoCo transfers to segmentation.

Long et al., arXiv 1411.4038; He et al., arXiv 1911.05722, appendix: the 3x3 convolutions of the
last stage have dilation 2 and stride 1, two 3x3 convolutions of dilation 6 follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from retable import distributed
from retable.data.transfer.pixel_classes import IGNORED, SEMANTIC
from retable.domains import Count, Dim
from retable.encoders import Encoder
from retable.encoders.dilation import dilate_
from retable.methods.method import Batch, Method, StepOutput
from retable.nn.batch_norm import pool_batch_norm
from retable.random import initialising
from retable.settings import validate_fields


@dataclass(frozen=True)
class SegmentationRecipe:
    """A segmentation network without its encoder.

    Attributes:
        classes: of pixels, with the background.
        hidden: channels of the convolutions behind the encoder.
        dilation: theirs.
    """

    classes: Dim
    hidden: Dim = 256
    dilation: Count = 6

    def __post_init__(self) -> None:
        validate_fields(self)

    def build(self, encoder: nn.Module, rng_key: int) -> SegmentationTraining:
        """Return the method; ``rng_key`` draws the weights of all but the encoder."""
        return SegmentationTraining(encoder, self, rng_key)


class FullyConvolutional(nn.Module):
    """Images (B, 3, H, W) to logits (B, K, H, W).

    The encoder is dilated in place.
    """

    def __init__(self, encoder: Encoder, recipe: SegmentationRecipe, rng_key: int) -> None:
        super().__init__()
        dilate_(encoder, 1, whole=True)
        self.encoder = encoder
        with initialising(rng_key):
            channels, blocks = encoder.feature_dim, []
            for _ in range(2):
                blocks += [
                    nn.Conv2d(
                        channels,
                        recipe.hidden,
                        3,
                        padding=recipe.dilation,
                        dilation=recipe.dilation,
                        bias=False,
                    ),
                    nn.BatchNorm2d(recipe.hidden),
                    nn.ReLU(inplace=True),
                ]
                channels = recipe.hidden
            self.head = nn.Sequential(*blocks, nn.Conv2d(channels, recipe.classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the classes of each pixel."""
        tap = self.encoder.tap_names[-2]
        scores = self.head(self.encoder.taps(images, [tap])[tap])
        return F.interpolate(scores, images.shape[2:], mode="bilinear", align_corners=True)


class SegmentationTraining(Method):
    """The cross-entropy of pixels; batch norms see the images of all processes."""

    def __init__(self, encoder: nn.Module, recipe: SegmentationRecipe, rng_key: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.network = FullyConvolutional(encoder, recipe, rng_key)  # type: ignore[arg-type]
        pool_batch_norm(self)

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """The network's encoder."""
        return self.network.encoder

    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss of one view with the layer "semantic"."""
        (view,), (layers,) = batch.views, batch.layers
        labels = layers[SEMANTIC][:, 0].long()
        scores = self.network(view).float()
        counted = labels != IGNORED
        loss = F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum")
        right = (scores.detach().argmax(dim=1) == labels) & counted
        count = distributed.mean_count(counted)
        accuracy = right.sum() / count
        return StepOutput(loss / count, {"pixel_accuracy": accuracy})

    def encoder_inputs(self, sizes: Sequence[int]) -> tuple[tuple[int, float], ...]:
        """Return the view, forward and backward."""
        return tuple((size, 3.0) for size in sizes)
