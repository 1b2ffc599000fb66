"""Dilation in place of stride."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retable.encoders import Encoder, ResNetRecipe
from retable.encoders.dilation import dilate_
from retable.errors import UserError


def last_map(encoder: Encoder, images: torch.Tensor) -> torch.Tensor:
    tap = encoder.tap_names[-2]
    return encoder.eval().taps(images, [tap])[tap]


@pytest.mark.parametrize(("stages", "side"), [(0, 2), (1, 4), (2, 8), (3, 16)])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_dilated_resnet_computes_what_torchvision_s_does(
    name: str, stages: int, side: int
) -> None:
    # Source: torchvision, which offers it for bottlenecks alone.
    models = pytest.importorskip("torchvision.models")
    encoder = ResNetRecipe(name).build(1)
    dilate_(encoder, stages)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = last_map(encoder, images)
    assert found.shape[2:] == (side, side)
    if name == "resnet18":
        return
    chosen = [stage > 3 - stages for stage in (1, 2, 3)]
    reference = models.resnet50(replace_stride_with_dilation=chosen).eval()
    reference.load_state_dict(encoder.state_dict(), strict=False)
    reference.avgpool, reference.fc = nn.Identity(), nn.Identity()
    with torch.no_grad():
        wanted = reference(images).view_as(found)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "small_resnet14"])
def test_every_second_value_of_a_dilated_map_is_that_of_the_strided_one(name: str) -> None:
    # Source: the algorithme à trous: dilation computes the strided map at all places between.
    plain = ResNetRecipe(name).build(1).double()
    dilated = ResNetRecipe(name).build(1).double()
    dilate_(dilated, 1)
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        found = last_map(dilated, images)[:, :, ::2, ::2]
        torch.testing.assert_close(found, last_map(plain, images))


def test_what_cannot_be_dilated_is_named() -> None:
    with pytest.raises(
        UserError, match="must be a ResNet with torch's padding to be dilated, got Linear"
    ):
        dilate_(nn.Linear(1, 1), 1)
    with pytest.raises(UserError, match="`stages` must be from 0 to 2"):
        dilate_(ResNetRecipe("small_resnet8").build(0), 3)
