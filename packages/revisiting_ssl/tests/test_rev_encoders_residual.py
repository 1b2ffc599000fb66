"""ResNet v1, v2 and RevNet of Kolesnikov et al. (2019): sizes, topology, constants, refusals."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from retable.errors import UserError
from revisiting_ssl.encoders import ResidualEncoder, ResidualRecipe, VggRecipe
from revisiting_ssl.encoders.pooling import max_pool_compact, max_pool_padded
from revisiting_ssl.encoders.units import PreActivationUnit

torch.set_num_threads(1)

RESNET18 = ResidualRecipe("v2", units=(2, 2, 2, 2), bottleneck=False)
PATCHES = {"root_stride": 1, "strides": (1, 2, 2, 1)}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters(recipe: ResidualRecipe | VggRecipe) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in recipe.build(rng_key=0).parameters())


@pytest.mark.parametrize(
    ("version", "counts"),
    [
        ("v1", {4: 23_508_032, 8: 93.9e6, 12: 211.2e6, 16: 375e6}),
        ("v2", {4: 23_500_352, 8: 93.9e6, 12: 211.2e6, 16: 375e6}),
        ("reversible", {4: 5_408_640, 8: 21.5e6, 12: 48.3e6, 16: 85.8e6}),
    ],
)
def test_parameters_are_as_many_as_the_papers(version: Any, counts: dict[int, float]) -> None:
    # Source: torchvision's resnet50 without its classifier has 23,508,032; the paper's text and
    # figures state the rounded ones.
    for widening, expected in counts.items():
        counted = parameters(ResidualRecipe(version, widening=widening))
        if isinstance(expected, int):
            assert counted == expected
        else:
            assert counted == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("version", ["v1", "v2", "reversible"])
@pytest.mark.parametrize(
    ("side", "fields", "sides"),
    [(224, {}, [56, 56, 28, 14, 7]), (64, PATCHES, [32, 32, 16, 8, 8])],
    ids=["images", "patches"],
)
def test_maps_have_the_papers_sizes(
    version: Any, side: int, fields: dict[str, Any], sides: list[int]
) -> None:
    encoder = ResidualRecipe(version, widening=1, **fields).build(rng_key=0).eval()
    root: list[Tensor] = []
    encoder.root.conv.register_forward_hook(lambda _, __, output: root.append(output))
    with torch.no_grad():
        taps = encoder.taps(randn(1, 3, side, side), encoder.tap_names)
    assert encoder.tap_names == (
        "after_root", "block1", "block2", "block3", "block4", "pre_logits",
    )  # fmt: skip
    assert root[0].shape[2] == 2 * sides[0]
    assert [taps[name].shape[2] for name in encoder.tap_names[:-1]] == sides
    assert [taps[name].shape[3] for name in encoder.tap_names[:-1]] == sides
    channels = [64 if version == "reversible" else 16, 64, 128, 256, 512]
    assert [taps[name].shape[1] for name in encoder.tap_names[:-1]] == channels
    assert taps["pre_logits"].shape == (1, 512)


@pytest.mark.parametrize("version", ["v1", "v2", "reversible"])
def test_the_representation_grows_with_the_widening(version: Any) -> None:
    for widening in (1, 12):
        with torch.device("meta"):
            wide = ResidualRecipe(version, widening=widening).build(rng_key=0)
            basic = dataclasses.replace(wide.recipe, bottleneck=False).build(rng_key=0)
        assert wide.feature_dim == 512 * widening
        assert basic.feature_dim == 128 * widening
        assert wide.root.conv.out_channels == (64 if version == "reversible" else 16) * widening


@pytest.mark.parametrize("training", [True, False])
def test_v1_is_torchvisions_network_but_for_its_epsilon(training: bool) -> None:
    # Source: torchvision.models.resnet50.
    import torchvision

    theirs = torchvision.models.resnet50(weights=None)
    theirs.fc = nn.Identity()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-3
    ours = ResidualRecipe("v1").build(rng_key=1)
    state = {}
    for name, value in theirs.state_dict().items():
        name = re.sub(r"^conv1\.", "root.conv.", name)
        name = re.sub(r"^bn1\.", "root.norm.", name)
        state[re.sub(r"^layer", "block", name)] = value
    ours.load_state_dict(state)
    images = randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.train(training)(images)
        torch.testing.assert_close(ours.train(training)(images), expected, rtol=1e-4, atol=1e-5)


def normalised(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Normalise over all but the channels, in plain operations."""
    mean, variance = x.mean((0, 2, 3), True), x.var((0, 2, 3), keepdim=True, correction=0)
    scale, shift = (state[f"{name}.{end}"].view(1, -1, 1, 1) for end in ("weight", "bias"))
    return (x - mean) / (variance + 1e-3).sqrt() * scale + shift


def convolved(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Pad by the kernel's reach on either side, then convolve without padding."""
    reach = (weight.shape[2] - 1) // 2
    return F.conv2d(F.pad(x, (reach,) * 4), weight, stride=stride)


def branch_of(x: Tensor, state: dict[str, Tensor], unit: str, stride: int) -> Tensor:
    """Return normalisation, ReLU and convolution, two or three times; the second has the stride."""
    number = 1
    while f"{unit}.branch.conv{number}.weight" in state:
        x = normalised(x, state, f"{unit}.branch.bn{number}").relu()
        step = stride if number == 2 else 1
        x = convolved(x, state[f"{unit}.branch.conv{number}.weight"], step)
        number += 1
    return x


def reference(images: Tensor, state: dict[str, Tensor], recipe: ResidualRecipe) -> Tensor:
    """Return features of v2 and RevNet: the method's description, in plain operations."""
    x = convolved(images, state["root.conv.weight"], recipe.root_stride)
    if recipe.root_pool:
        x = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))
    for block, depth in enumerate(recipe.units):
        if recipe.version == "reversible" and block:
            if recipe.strides[block] == 2:
                x = (
                    x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]
                ) / 4
            zeros = torch.zeros_like(x[:, : x.shape[1] // 2])
            x = torch.cat((zeros, x, zeros), dim=1)
        for index in range(depth):
            unit = f"block{block + 1}.{index}"
            if recipe.version == "reversible":
                half = x.shape[1] // 2
                x1, x2 = x[:, :half], x[:, half:]
                x = torch.cat((x2, x1 + branch_of(x2, state, unit, 1)), dim=1)
                continue
            stride = 1 if index else recipe.strides[block]
            shortcut = x
            if f"{unit}.projection.weight" in state:
                activated = normalised(x, state, f"{unit}.branch.bn1").relu()
                shortcut = convolved(activated, state[f"{unit}.projection.weight"], stride)
            x = branch_of(x, state, unit, stride) + (shortcut if recipe.skip else 0)
    x = normalised(x, state, "norm")
    return (x.relu() if recipe.last_relu else x).mean((2, 3))


@pytest.mark.parametrize(
    "recipe",
    [
        ResidualRecipe("v2", widening=1),
        ResidualRecipe("v2", widening=1, last_relu=False, **PATCHES),  # type: ignore[arg-type]
        ResidualRecipe("v2", (2, 2, 2, 2), False, 1),
        ResidualRecipe("v2", (2, 1, 1, 1), False, 1, skip=False),
        ResidualRecipe("v2", (1, 1, 1), False, 2, (2, 1, 2), 3, 1, False),
        ResidualRecipe("reversible", widening=1),
        ResidualRecipe("reversible", widening=1, last_relu=False, **PATCHES),  # type: ignore[arg-type]
        ResidualRecipe("reversible", (1, 2, 1, 1), False, 1, (1, 2, 1, 2), 3, 1, False),
    ],
    ids=lambda recipe: "-".join(map(str, dataclasses.astuple(recipe))),
)
def test_v2_and_revnet_are_what_their_description_says(recipe: ResidualRecipe) -> None:
    encoder = recipe.build(rng_key=1).double()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in encoder.named_parameters():  # scales and shifts that show
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float("weight" in name), std=0.3, generator=generator)
    images = randn(3, 3, 64, 64).double()
    with torch.no_grad():
        expected = reference(images, encoder.state_dict(), recipe)
        torch.testing.assert_close(encoder(images), expected, rtol=1e-7, atol=1e-9)
    assert not set(encoder.state_dict()) - set(expected_names(recipe))


def expected_names(recipe: ResidualRecipe) -> list[str]:
    """List the names that `reference` reads, and running statistics."""
    layers = 3 if recipe.bottleneck else 2
    names = ["root.conv.weight"]
    norms = ["norm"]
    for block, depth in enumerate(recipe.units):
        for index in range(depth):
            unit = f"block{block + 1}.{index}"
            names += [f"{unit}.branch.conv{i + 1}.weight" for i in range(layers)]
            norms += [f"{unit}.branch.bn{i + 1}" for i in range(layers)]
            if recipe.version == "v2" and recipe.skip and index == 0:
                names.append(f"{unit}.projection.weight")
    ends = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return names + [f"{norm}.{end}" for norm in norms for end in ends]


@pytest.mark.parametrize("bottleneck", [True, False])
def test_a_unit_with_a_zero_branch_is_its_shortcut_or_zero(bottleneck: bool) -> None:
    x = randn(2, 8, 6, 6)
    for skip, expected in ((True, x), (False, torch.zeros_like(x))):
        unit = PreActivationUnit(8, 8, 1, bottleneck, skip)
        nn.init.zeros_((unit.branch.conv3 if bottleneck else unit.branch.conv2).weight)
        assert torch.equal(unit(x), expected)
    assert torch.equal(x, randn(2, 8, 6, 6)), "the input stays as it is"


def test_basic_v2_has_the_convolutions_of_torchvisions_resnet18() -> None:
    import torchvision

    def shapes(network: nn.Module) -> list[tuple[int, ...]]:
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        return sorted(tuple(layer.weight.shape) for layer in layers)

    with torch.device("meta"):
        theirs = torchvision.models.resnet18(weights=None)
        assert shapes(RESNET18.build(rng_key=0)) == shapes(theirs)


def test_without_skip_connections_there_are_no_projections() -> None:
    def names(recipe: ResidualRecipe) -> set[str]:
        with torch.device("meta"):
            return set(recipe.build(rng_key=0).state_dict())

    projections = names(RESNET18) - names(dataclasses.replace(RESNET18, skip=False))
    assert projections == {f"block{block}.0.projection.weight" for block in (2, 3, 4)}
    assert names(dataclasses.replace(RESNET18, skip=False)) < names(RESNET18)


@pytest.mark.parametrize("version", ["v2", "reversible"])
def test_without_the_last_relu_features_may_be_negative_and_nothing_else_differs(
    version: Any,
) -> None:
    recipe = ResidualRecipe(version, widening=1, units=(1, 1, 1, 1))
    plain = recipe.build(rng_key=1)
    minus = dataclasses.replace(recipe, last_relu=False).build(rng_key=1)
    assert plain.state_dict().keys() == minus.state_dict().keys()
    minus.load_state_dict(plain.state_dict())
    images = randn(4, 3, 64, 64)
    with torch.no_grad():
        features, without = plain(images), minus(images)
        assert (features >= 0).all()
        assert (without < 0).any()
        last = minus.taps(images, ("block4",))["block4"]
        normalised_last = minus.get_submodule("norm")(last)
        torch.testing.assert_close(normalised_last.mean((2, 3)), without)
        torch.testing.assert_close(normalised_last.relu().mean((2, 3)), features)


@pytest.mark.parametrize(
    "recipe",
    [ResidualRecipe(v, widening=1) for v in ("v1", "v2", "reversible")] + [VggRecipe(1)],
    ids=["v1", "v2", "reversible", "vgg"],
)
def test_layers_have_tensorflows_constants_and_glorots_weights(
    recipe: ResidualRecipe | VggRecipe,
) -> None:
    # Source: tf.layers' defaults; Glorot and Bengio (2010), equation 16.
    encoder: nn.Module = recipe.build(rng_key=1)
    seen = 0
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.eps, layer.momentum) == (1e-3, 0.01)
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            area = layer.kernel_size[0] * layer.kernel_size[1]
            bound = math.sqrt(6 / (area * (layer.in_channels + layer.out_channels)))
            assert layer.weight.abs().max() <= bound
            if layer.weight.numel() > 5000:
                assert layer.weight.abs().max() > 0.99 * bound
                assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
            seen += 1
    assert seen > 15
    assert not any(isinstance(layer, nn.Dropout | nn.Linear) for layer in encoder.modules())


def test_running_statistics_keep_99_hundredths() -> None:
    encoder = ResidualRecipe("v1", widening=1, units=(1, 1, 1, 1)).build(rng_key=1)
    images = randn(4, 3, 64, 64)
    encoder(images)
    values = encoder.root.conv(images)
    expected = 0.99 + 0.01 * values.var((0, 2, 3))
    torch.testing.assert_close(encoder.get_buffer("root.norm.running_var"), expected)


def test_the_root_of_a_revnet_is_one_convolution() -> None:
    # Its weight decay is 0: an optimizer finds it under this name.
    with torch.device("meta"):
        encoder = ResidualRecipe("reversible").build(rng_key=0)
    assert [n for n, _ in encoder.named_parameters() if n.startswith("root.")] == [
        "root.conv.weight"
    ]


@pytest.mark.parametrize("side", [1, 2, 4, 7, 8])
def test_the_maximum_sees_zeros_beyond_the_border(side: int) -> None:
    x = randn(2, 3, side, side) - 1
    size = (side + 1) // 2
    expected = torch.empty(2, 3, size, size)
    for row in range(size):
        for column in range(size):
            top, left = 2 * row - 1, 2 * column - 1
            window = x[:, :, max(top, 0) : top + 3, max(left, 0) : left + 3]
            expected[:, :, row, column] = window.amax((2, 3))
            if min(top, left) < 0 or max(top, left) + 3 > side:
                expected[:, :, row, column].clamp_(min=0)
    assert torch.equal(max_pool_padded(x), expected)
    assert torch.equal(max_pool_padded(x.relu()), F.max_pool2d(x.relu(), 3, 2, padding=1))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    shift=st.sampled_from([-2.0, 0.0, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    channels_last=st.booleans(),
)
def test_the_compact_maximum_has_the_same_values_and_gradients(
    height: int, width: int, shift: float, dtype: torch.dtype, channels_last: bool
) -> None:
    x = (randn(2, 3, height, width) + shift).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    expected, maxima = max_pool_padded(x), max_pool_compact(x)
    assert torch.equal(maxima, expected)
    assert maxima.dtype == dtype
    # Whole numbers, whose sums are the same in any order and precision.
    weights = (torch.arange(maxima.numel()) % 7 - 3).view_as(maxima).to(dtype)
    (one,) = torch.autograd.grad(expected, x, weights)
    (other,) = torch.autograd.grad(maxima, x, weights)
    assert torch.equal(one, other)


def test_the_compact_maximum_keeps_a_byte_for_each() -> None:
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = randn(2, 3, 8, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        maxima = max_pool_compact(x)
    assert sum(tensor.nbytes for tensor in kept) == maxima.numel()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"version": "v3"}, "`version` must be one of 'v1', 'v2', 'reversible', got 'v3'."),
        ({"version": "v1", "last_relu": False}, "last_relu` must be true for version v1,"),
        ({"version": "v1", "skip": False}, "skip` must be true for version v1, got false."),
        ({"version": "reversible", "skip": False}, "skip` must be true for version reversible,"),
        ({"reversible_backward": True}, "reversible_backward` must be false for version v2,"),
        ({"version": "reversible", "strides": (2, 2, 2, 2)}, "strides` must begin with 1 for"),
        ({"units": (3, 4, 6)}, "must be one stride for each of the blocks (3, 4, 6), got (1, 2,"),
        ({"units": (3, 0, 6, 3)}, "`units` must be at least 1 in each item, got (3, 0, 6, 3)."),
        ({"strides": ()}, "strides` must be a positive number for each block, got ()."),
        ({"widening": 0}, "`widening` must be at least 1, got 0."),
        ({"root_stride": 0}, "`root_stride` must be at least 1, got 0."),
        ({"root_kernel": 4}, "`encoder.root_kernel` must be odd, got 4."),
    ],
)
def test_contradictory_recipes_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        ResidualRecipe(**fields)


def test_weights_do_not_depend_on_options_that_change_no_layer() -> None:
    recipe = ResidualRecipe("reversible", widening=1, units=(1, 1, 1, 1))
    encoders = [
        dataclasses.replace(recipe, **fields).build(rng_key=3)
        for fields in ({}, {"last_relu": False}, {"reversible_backward": True}, {"root_stride": 1})
    ]
    assert isinstance(encoders[0], ResidualEncoder)
    for encoder in encoders[1:]:
        for one, other in zip(encoders[0].parameters(), encoder.parameters(), strict=True):
            assert torch.equal(one, other)
