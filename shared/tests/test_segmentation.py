"""Segmentation: mean IoU by hand, the network's dilation, and the evaluation's data."""

import pytest
import torch
from torch import nn

from retable.encoders import ResNetRecipe
from retable.evaluate.transfer.segmentation.mean_iou import confusion, mean_iou
from retable.evaluate.transfer.segmentation.network import FullyConvolutional, SegmentationRecipe


def test_mean_iou_of_a_hand_made_image() -> None:
    labels = torch.tensor([[0, 0, 1], [1, 2, 255]])
    predicted = torch.tensor([[0, 1, 1], [1, 0, 2]])
    counts = confusion(predicted, labels, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    # 1 of 3, 2 of 3, 0 of 1; class 3 does not occur; the pixel 255 does not count.
    assert mean_iou(counts) == pytest.approx(100 * (1 / 3 + 2 / 3 + 0) / 3)


def test_counts_of_images_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, labels = (torch.randint(0, 3, (2, 5, 5), generator=generator) for _ in range(2))
    parts = [confusion(one, other, 3) for one, other in zip(predicted, labels, strict=True)]
    assert torch.equal(torch.stack(parts).sum(0), confusion(predicted, labels, 3))


def test_all_three_convolutions_of_the_last_stage_are_dilated() -> None:
    encoder = ResNetRecipe("resnet50", width=0.0625).build(0)
    FullyConvolutional(encoder, SegmentationRecipe(3, hidden=8), 0)
    for block in range(3):
        convolution = encoder.get_submodule(f"layer4.{block}.conv2")
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.stride == (1, 1)
        assert convolution.dilation == convolution.padding == (2, 2)
    assert encoder.get_submodule("layer4.0.downsample.0").stride == (1, 1)


def test_logits_have_the_size_of_the_image() -> None:
    network = FullyConvolutional(
        ResNetRecipe("small_resnet8").build(0), SegmentationRecipe(7, hidden=8), 0
    )
    assert network(torch.randn(2, 3, 40, 56)).shape == (2, 7, 40, 56)
