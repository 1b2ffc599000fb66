"""Dilation in place of stride: finer maps from the same weights (Chen et al., arXiv 1706.05587)."""

from __future__ import annotations

from torch import nn

from retable.encoders.resnet import ResNet
from retable.encoders.small import SmallResNet
from retable.errors import UserError


def dilate_(encoder: nn.Module, stages: int, *, whole: bool = False) -> None:
    """Replace the strides of an encoder's last stages by dilation, in place.

    The sides of the last stage's map are 2 ** stages times as large then: for two stages of a
    `ResNet` an eighth of the image's instead of a 32nd. The values of the map with
    strides stand in it unchanged, apart by 2 ** stages, and others between them.

    Args:
        encoder: a `ResNet` or `SmallResNet` that was not dilated before, and whose layers pad both
            ends of a side alike: of others the map with strides is no part of a dilated one.
        stages: number of last stages; the first stage has no stride.
        whole: whether a stage's convolution that had the stride is dilated too, as in MoCo's
            segmentation; otherwise the map with strides stands unchanged in the new one.

    Raises:
        UserError: the encoder is neither, or has not so many stages with a stride.
    """
    found = _stages(encoder)
    if not 0 <= stages < len(found):
        raise UserError(
            f"`stages` must be from 0 to {len(found) - 1}, the number of stages with a stride, got "
            f"{stages}. Correct it."
        )
    dilation = 1
    for blocks in found[len(found) - stages :]:
        before, dilation = dilation, 2 * dilation
        for block in blocks:
            _dilate_block(block, dilation if whole else before, dilation)


def _stages(encoder: nn.Module) -> list[list[nn.Module]]:
    """Return the residual blocks of each stage."""
    uneven = [
        layer
        for layer in encoder.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and layer.padding == (0, 0)
    ]
    if isinstance(encoder, ResNet) and not uneven:
        return [[*encoder.get_submodule(f"layer{stage}").children()] for stage in range(1, 5)]
    if isinstance(encoder, SmallResNet):
        blocks = [*encoder.blocks.children()]
        return [
            blocks[first : first + encoder.depth] for first in range(0, len(blocks), encoder.depth)
        ]
    raise UserError(
        f"`encoder` must be a ResNet with torch's padding to be dilated, got "
        f"{type(encoder).__name__}. Use a ResNetRecipe."
    )


def _dilate_block(block: nn.Module, before: int, after: int) -> None:
    """Remove a block's stride; ``before`` and ``after`` are the dilations on both sides of it."""
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            if layer.kernel_size == (3, 3):
                dilation = before if layer.stride != (1, 1) else after
                layer.dilation = layer.padding = (dilation, dilation)
            layer.stride = (1, 1)
