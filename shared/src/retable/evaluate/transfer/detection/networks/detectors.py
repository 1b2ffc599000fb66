"""Faster and Mask R-CNN around an encoder, without a pyramid (C4) and with one (FPN)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from retable.encoders import Encoder
from retable.errors import UserError
from retable.evaluate.transfer.detection.networks.anchors import Anchors
from retable.evaluate.transfer.detection.networks.pooling import RegionPool
from retable.evaluate.transfer.detection.networks.proposals import Proposals
from retable.evaluate.transfer.detection.networks.regions import MaskPredictor, Regions
from retable.evaluate.transfer.detection.recipe import Detection, DetectorRecipe, Target
from retable.random import derive_key, initialising
from retable.train.memory import Part


def build_detector(
    recipe: DetectorRecipe, encoder: Encoder, classes: int, rng_key: int
) -> Detector:
    """Return the detector of ``classes``; ``rng_key`` draws all weights but the encoder's."""
    with initialising(rng_key):
        return (C4 if recipe.kind == "c4" else Pyramid)(encoder, recipe, classes)


class Detector(nn.Module):
    """Images to objects. A subclass builds ``proposals`` and ``regions`` and defines `maps`.

    Attributes:
        divisor: sides of a batch of images must be multiples of it.
    """

    proposals: Proposals
    regions: Regions
    divisor: int = 1

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of images (B, 3, H, W), from the finest."""
        raise NotImplementedError

    def region_passes(self) -> list[Part]:
        """Return the passes of an image's regions in training, for their memory."""
        raise NotImplementedError

    def forward(
        self,
        images: Tensor,
        shapes: Sequence[tuple[int, int]],
        targets: Sequence[Target] | None = None,
    ) -> tuple[list[Detection], dict[str, Tensor]]:
        """Return what is found in each image, or in training the losses.

        Args:
            images: (B, 3, H, W) float32, normalised, padded at the right and below.
            shapes: height and width of each image without padding.
            targets: objects of each image, in training.
        """
        maps = self.maps(images)
        wanted = None if targets is None else list(targets)
        boxes, losses = self.proposals(ImageList(images, list(shapes)), maps, wanted)
        found, of_regions = self.regions(maps, boxes, list(shapes), wanted)
        return found, {**losses, **of_regions}

    def start_step(self, rng_key: int, positions: Sequence[int]) -> None:
        """Set the key of the step's draws and the images' positions in the global batch."""
        self.proposals.fg_bg_sampler.start(derive_key(rng_key, "anchors"), positions)
        self.regions.fg_bg_sampler.start(derive_key(rng_key, "regions"), positions)


class C4(Detector):
    """Proposals from the last stage but one; the last stage sees regions of its map."""

    def __init__(self, encoder: Encoder, recipe: DetectorRecipe, classes: int) -> None:
        super().__init__(encoder)
        *self.stages, last = encoder.tap_names[:-1]
        channels, stride = _shape_of(encoder, self.stages[-1])
        self.channels, self.side, self.chosen = channels, recipe.side, recipe.chosen
        anchors = Anchors([recipe.sizes], recipe.ratios, [stride])
        self.proposals = Proposals(
            channels,
            anchors,
            before=recipe.before or (12_000, 6_000),
            after=recipe.after or (2_000, 1_000),
        )
        dim = encoder.feature_dim
        self.regions = Regions(
            RegionPool(recipe.side, [stride]),
            LastStage(encoder, last),
            dim,
            classes,
            mask_predictor=MaskPredictor(dim, recipe.hidden, classes) if recipe.masks else None,
            chosen=recipe.chosen,
        )

    def region_passes(self) -> list[Part]:
        """Return the pass of all regions through the last stage."""
        return [(self.regions.box_head, (self.channels, self.side, self.side), self.chosen)]

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return the map of the last stage but one."""
        for name in self.stages:
            images = self.encoder.advance(name, images)
        return {"0": images}


class LastStage(nn.Module):
    """The last stage of an encoder on maps of regions, and a batch norm (MoCo, detection)."""

    def __init__(self, encoder: Encoder, name: str) -> None:
        super().__init__()
        self._encoder = (encoder,)  # no submodule: its weights belong to the detector's encoder
        self.name = name
        self.norm = nn.BatchNorm2d(encoder.feature_dim)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (M, C, S, S) to (M, F, S', S')."""
        (encoder,) = self._encoder
        return self.norm(encoder.advance(self.name, maps))  # type: ignore[no-any-return]


class Pyramid(Detector):
    """A feature pyramid of all stages (Lin et al., arXiv 1612.03144), with batch norm."""

    def __init__(self, encoder: Encoder, recipe: DetectorRecipe, classes: int) -> None:
        super().__init__(encoder)
        self.stages = list(encoder.tap_names[:-1])
        channels, strides = zip(*(_shape_of(encoder, name) for name in self.stages), strict=True)
        if len(recipe.sizes) != len(strides) + 1:
            raise UserError(
                f"`sizes` must be one for each of the pyramid's {len(strides) + 1} maps, got "
                f"{len(recipe.sizes)}. Name so many."
            )
        hidden, dim = recipe.hidden, 4 * recipe.hidden
        self.hidden, self.chosen = hidden, recipe.chosen
        self.divisor = strides[-1]
        self.pyramid = FeaturePyramidNetwork(
            list(channels), hidden, LastLevelMaxPool(), nn.BatchNorm2d
        )
        anchors = Anchors(
            [[size] for size in recipe.sizes], recipe.ratios, [*strides, 2 * strides[-1]]
        )
        self.proposals = Proposals(
            hidden,
            anchors,
            before=recipe.before or (2_000, 1_000),
            after=recipe.after or (1_000, 1_000),
        )
        usual = recipe.usual_size, min(2, len(strides) - 1)
        layers = (hidden,) * 4
        box_head = TwoMLPHead(7 * 7 * hidden, dim)  # type: ignore[no-untyped-call]
        for layer in (box_head.fc6, box_head.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        self.regions = Regions(
            RegionPool(7, strides, *usual),
            box_head,
            dim,
            classes,
            mask_pool=RegionPool(14, strides, *usual) if recipe.masks else None,
            mask_head=MaskRCNNHeads(hidden, layers, 1) if recipe.masks else None,
            mask_predictor=MaskPredictor(hidden, hidden, classes) if recipe.masks else None,
            chosen=recipe.chosen,
        )

    def region_passes(self) -> list[Part]:
        """Return the passes of all regions for boxes, and of a quarter for masks."""
        passes: list[Part] = [(self.regions.box_head, (self.hidden, 7, 7), self.chosen)]
        if self.regions.has_mask():
            passes.append((self.regions.mask_head, (self.hidden, 14, 14), self.chosen // 4))
        return passes

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return the pyramid's maps."""
        found = self.encoder.taps(images, self.stages)
        return self.pyramid(found)  # type: ignore[no-any-return]


@torch.no_grad()
def _shape_of(encoder: Encoder, name: str) -> tuple[int, int]:
    """Return the channels of a tap's map and its stride."""
    side = 128
    training = encoder.training
    encoder.eval()
    like = next(encoder.parameters())
    found = encoder.taps(like.new_zeros(1, 3, side, side), [name])[name]
    encoder.train(training)
    return found.shape[1], side // found.shape[-1]
