"""Encoders give their activations at several depths, in one pass and no further than asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from retable.encoders import ResNetRecipe
from retable.testing import check_encoder

torch.set_num_threads(1)

RECIPES = {
    "resnet18": ResNetRecipe("resnet18", width=0.25),
    "resnet50": ResNetRecipe("resnet50", width=0.125, stem="small"),
    "small_resnet14": ResNetRecipe("small_resnet14", stem="small"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_an_encoder_keeps_its_contract(name: str) -> None:
    check_encoder(RECIPES[name])


@pytest.mark.parametrize("name", RECIPES)
def test_taps_of_a_resnet_are_what_leaves_its_stages(name: str) -> None:
    encoder = RECIPES[name].build(rng_key=1).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    taps = encoder.taps(images, encoder.tap_names)
    left: dict[str, Tensor] = {}

    def keep(place: str) -> Any:
        return lambda _, __, output: left.update({place: output})

    depth = 2
    for stage, tap in enumerate(encoder.tap_names[:-1]):
        last = f"blocks.{(stage + 1) * depth - 1}" if name.startswith("small") else tap
        encoder.get_submodule(last).register_forward_hook(keep(tap))
    features = encoder(images)
    assert left.keys() == set(encoder.tap_names[:-1])
    for tap, value in left.items():
        assert torch.equal(taps[tap], value)
    torch.testing.assert_close(taps[encoder.tap_names[-2]].mean((2, 3)), features)
