import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from retable.encoders import ResNetRecipe
from retable.errors import UserError

torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_weights_load_strictly_and_give_its_features(name: str) -> None:
    # Source: torchvision.models.resnet with the classifier replaced by the identity.
    import torchvision

    theirs = getattr(torchvision.models, name)(weights=None)
    theirs.fc = nn.Identity()
    ours = ResNetRecipe(name).build(rng_key=1)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for mode in (True, False):
        ours.train(mode)
        theirs.train(mode)
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["resnet34", "resnet101", "resnet152"])
def test_deeper_networks_have_torchvisions_names_and_shapes_in_its_order(name: str) -> None:
    # Source: torchvision.models.resnet, on the meta device.
    import torchvision

    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
        ours = ResNetRecipe(name).build(rng_key=1).state_dict()
    expected = [(key, value.shape) for key, value in theirs.items() if not key.startswith("fc.")]
    assert [(key, value.shape) for key, value in ours.items()] == expected


def test_resnet200_has_the_depth_of_its_name() -> None:
    # Source: He et al. (2016): depth counts convolutions without projections, and the classifier.
    with torch.device("meta"):
        encoder = ResNetRecipe("resnet200").build(rng_key=0)
    convolutions = [
        name
        for name, layer in encoder.named_modules()
        if isinstance(layer, nn.Conv2d) and "downsample" not in name
    ]
    assert len(convolutions) + 1 == 200


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "small_resnet8"])
def test_width_scales_every_convolution(name: str) -> None:
    for width in (0.25, 2.0):
        with torch.device("meta"):
            plain = ResNetRecipe(name).build(rng_key=0)
            scaled = ResNetRecipe(name, width=width).build(rng_key=0)
        assert scaled.feature_dim == width * plain.feature_dim
        for parameter, reference in zip(scaled.parameters(), plain.parameters(), strict=True):
            assert parameter.shape[0] == width * reference.shape[0]


@pytest.mark.parametrize(
    ("name", "stem", "reduction"),
    [
        ("resnet18", "imagenet", 32),
        ("resnet18", "small", 8),
        ("small_resnet8", "imagenet", 8),
        ("small_resnet8", "small", 4),
    ],
)
def test_the_stem_decides_the_size_of_the_last_map(name: str, stem: str, reduction: int) -> None:
    encoder = ResNetRecipe(name, width=0.25, stem=stem).build(rng_key=0)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    last = encoder.tap_names[-2]
    grid = encoder.taps(images, (last,))[last]
    assert grid.shape == (2, encoder.feature_dim, 64 // reduction, 64 // reduction)


def test_the_small_family_counts_its_parameters() -> None:
    # Source: He et al. (2016), table 6 has 0.27 M for depth 20 with parameter-free shortcuts.
    def count(name: str) -> int:
        return sum(p.numel() for p in ResNetRecipe(name).build(rng_key=0).parameters())

    # Two projections of 16 x 32 and 32 x 64 weights and their norms are ours.
    projections = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert count("small_resnet20") - projections == pytest.approx(0.27e6, rel=0.01)
    assert count("small_resnet8") == pytest.approx(77e3, rel=0.02)


def test_group_norm_encoders_have_no_batch_statistics() -> None:
    encoder = ResNetRecipe("small_resnet8", norm="group").build(rng_key=0).double()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    together = encoder(images)
    alone = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(together, alone)
    assert not list(encoder.buffers())


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "resnet51"}, "`encoder.name` must be one of resnet18, resnet34, "),
        ({"stem": "cifar"}, "`stem` must be one of 'imagenet', 'small', got 'cifar'."),
        ({"norm": "none"}, "`norm` must be one of 'batch', 'group', got 'none'."),
        ({"width": 0}, "`width` must be in (0, 64], got 0."),
        ({"width": math.inf}, "`width` must be in (0, 64], got inf."),
        ({"width": math.nan}, "`width` must be in (0, 64], got nan."),
        ({"stem_pool": "mean"}, "`stem_pool` must be one of 'max', 'none'"),
        ({"stem_stride": 0}, "`stem_stride` must be at least 1, got 0"),
        ({"stem_padding": -1}, "`stem_padding` must be at least 0, got -1"),
        (
            {"name": "small_resnet8", "stem_padding": 2},
            "resnet200 for an encoder with stem padding 2, got 'small_resnet8'.",
        ),
        (
            {"name": "resnet18", "downsampling": "caffe"},
            "`encoder.downsampling` must be torchvision for a ResNet of basic blocks",
        ),
    ],
)
def test_impossible_recipes_are_named(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        ResNetRecipe(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "small_resnet14"])
def test_zero_init_residual_blocks_start_as_their_shortcuts(name: str) -> None:
    usual = ResNetRecipe(name, width=0.25).build(rng_key=0)
    encoder = ResNetRecipe(name, width=0.25, zero_init_residual=True).build(rng_key=0)
    blocks: list[Any] = [m for m in encoder.modules() if hasattr(m, "downsample")]
    assert blocks
    for block in blocks:
        x = torch.rand(2, block.conv1.in_channels, 8, 8)
        shortcut = x if block.downsample is None else block.downsample(x)
        torch.testing.assert_close(block(x), shortcut.relu())
    weights = dict(usual.named_parameters())
    changed = [n for n, p in encoder.named_parameters() if not torch.equal(p, weights[n])]
    assert len(changed) == len(blocks)
