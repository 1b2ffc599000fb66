"""VGG19-BN of Kolesnikov et al. (2019): sizes, topology, refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retable.errors import UserError
from revisiting_ssl.encoders import VggRecipe

torch.set_num_threads(1)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("widening", "expected"), [(4, 34.9e6), (8, 139_583_936), (12, 314e6), (16, 558e6)]
)
def test_parameters_are_as_many_as_the_papers(widening: int, expected: float) -> None:
    with torch.device("meta"):
        encoder = VggRecipe(widening).build(rng_key=0)
    counted = sum(p.numel() for p in encoder.parameters())
    assert counted == pytest.approx(expected, rel=0 if isinstance(expected, int) else 1e-3)
    assert encoder.feature_dim == 512 * widening


@pytest.mark.parametrize(
    ("recipe", "side", "sides"),
    [
        (VggRecipe(1), 224, [224, 112, 56, 28, 14]),
        (VggRecipe(1, fc_kernel=2), 64, [64, 32, 16, 8, 4]),
    ],
    ids=["images", "patches"],
)
def test_taps_lie_before_the_pooling(recipe: VggRecipe, side: int, sides: list[int]) -> None:
    encoder = recipe.build(rng_key=0).eval()
    with torch.no_grad():
        taps = encoder.taps(randn(1, 3, side, side), encoder.tap_names)
    blocks = [f"block{stack}" for stack in range(1, 6)]
    assert encoder.tap_names == (*blocks, "fc6", "pre_logits")
    shapes = [tuple(taps[name].shape[1:]) for name in blocks]
    assert shapes == [(c, s, s) for c, s in zip((8, 16, 32, 64, 64), sides, strict=True)]
    assert taps["fc6"].shape == (1, 512, 1, 1)
    assert taps["pre_logits"].shape == (1, 512)
    assert all((tap >= 0).all() for tap in taps.values()), "all end in a ReLU"


def reference(images: Tensor, convolutions: list[Tensor], recipe: VggRecipe) -> Tensor:
    """Return features in plain operations; scales are 1 and shifts 0."""

    def layer(x: Tensor, weight: Tensor, padding: int) -> Tensor:
        x = F.conv2d(x, weight, padding=padding)
        x = x - x.mean((0, 2, 3), keepdim=True)
        return (x / (x.square().mean((0, 2, 3), keepdim=True) + 1e-3).sqrt()).relu()

    remaining = iter(convolutions)
    x = images
    for depth, pool in zip(recipe.stacks, recipe.pools, strict=True):
        for _ in range(depth):
            x = layer(x, next(remaining), 1)
        if pool:
            x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    for weight in remaining:
        x = layer(x, weight, 0)
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("recipe", "side"),
    [
        (VggRecipe(1, fc_kernel=2), 64),
        (VggRecipe(1, fc_kernel=1), 64),
        (VggRecipe(1, (1, 1, 1, 1, 1), (True, False, True, True, False), 2), 18),
    ],
)
def test_the_network_is_what_its_description_says(recipe: VggRecipe, side: int) -> None:
    encoder = recipe.build(rng_key=1).double()
    convolutions = [m.weight for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == sum(recipe.stacks) + 2
    images = randn(3, 3, side, side).double()
    with torch.no_grad():
        expected = reference(images, convolutions, recipe)
        torch.testing.assert_close(encoder(images), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("recipe", "side", "sentence"),
    [
        (VggRecipe(1), 64, "The VGG encoder needs maps of at least 7x7, got 2x2. Use larger"),
        (VggRecipe(1), 20, "The VGG encoder needs maps of at least 2x2, got 1x1. Use larger"),
    ],
)
def test_images_that_are_too_small_are_named(recipe: VggRecipe, side: int, sentence: str) -> None:
    encoder = recipe.build(rng_key=0).eval()
    with pytest.raises(UserError, match=re.escape(sentence)):
        encoder(randn(1, 3, side, side))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"widening": 0}, "`widening` must be at least 1, got 0."),
        ({"fc_kernel": 0}, "`fc_kernel` must be at least 1, got 0."),
        (
            {"stacks": (2, 0, 1)},
            "`stacks` must be at least 1 in each item, got (2, 0, 1).",
        ),
        (
            {"stacks": (1, 1)},
            "must be true or false for each of the stacks (1, 1), got (True, True,",
        ),
    ],
)
def test_invalid_recipes_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        VggRecipe(**fields)
