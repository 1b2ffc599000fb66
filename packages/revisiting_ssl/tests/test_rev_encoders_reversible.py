"""Reversible units have an inverse, and a backward pass that needs nothing but their output."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from retable.errors import UserError
from retable.nn.batch_norm import group_batch_norm, rows_per_image
from retable.random import initialising
from retable.testing import run_processes
from revisiting_ssl.encoders import ResidualEncoder, ResidualRecipe
from revisiting_ssl.encoders.recomputation import NormConditions
from revisiting_ssl.encoders.reversible import ReversibleBlock, ReversibleUnit, pool_and_double

torch.set_num_threads(1)

BASIC = ResidualRecipe(
    "reversible", (2, 1, 3, 1), bottleneck=False, widening=1, root_kernel=3, root_pool=False
)
BOTTLENECK = ResidualRecipe("reversible", (1, 2, 1, 2), widening=1)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def disturbed(module: nn.Module) -> nn.Module:
    """Give normalisation values that are not its defaults."""
    generator = torch.Generator().manual_seed(5)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1, 0.3, generator)
            nn.init.normal_(layer.bias, 0, 0.3, generator)
            nn.init.normal_(layer.get_buffer("running_mean"), 0, 0.3, generator)
            nn.init.uniform_(layer.get_buffer("running_var"), 0.5, 2, generator)
    return module


def unit_of(channels: int, bottleneck: bool, seed: int = 0) -> ReversibleUnit:
    with initialising(seed):
        unit = ReversibleUnit(channels, bottleneck)
    disturbed(unit)
    return unit


def averaged(x: Tensor, stride: int) -> Tensor:
    """Average windows, those over the lower and right border over what is inside, by loops."""
    height, width = (-(-side // stride) for side in x.shape[2:])
    output = torch.empty(*x.shape[:2], height, width)
    for row in range(height):
        for column in range(width):
            window = x[:, :, row * stride : (row + 1) * stride, column * stride :][..., :stride]
            output[:, :, row, column] = window.mean((2, 3))
    return output


@settings(max_examples=30, deadline=None)
@given(
    half=st.integers(1, 4),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    stride=st.integers(1, 3),
)
def test_pool_and_double_puts_averages_between_zeros(
    half: int, height: int, width: int, stride: int
) -> None:
    # Source: official code, average_pooling2d with padding SAME, then tf.pad of the channels.
    x = randn(2, 2 * half, height, width)
    doubled = pool_and_double(x, stride)
    zeros = torch.zeros_like(doubled[:, :half])
    assert doubled.shape[1] == 4 * half
    assert torch.equal(doubled[:, :half], zeros)
    assert torch.equal(doubled[:, -half:], zeros)
    torch.testing.assert_close(doubled[:, half:-half], averaged(x, stride))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bottleneck", [True, False])
def test_a_units_inverse_gives_its_input(bottleneck: bool, training: bool) -> None:
    unit = unit_of(16, bottleneck).train(training)
    x = randn(4, 16, 6, 6)
    with torch.no_grad():
        y = unit(x)
        before = copy.deepcopy(unit.state_dict())
        torch.testing.assert_close(unit.inverse(y), x, rtol=1e-5, atol=1e-6)
    for name, value in unit.state_dict().items():
        assert torch.equal(value, before[name]), "no statistics move"
    assert torch.equal(y[:, :8], x[:, 8:]), "one half is handed on to the bit"
    assert not torch.allclose(y[:, 8:], x[:, :8], atol=0.1)


def test_the_inverse_in_double_precision_is_exact_to_its_rounding() -> None:
    units = [unit_of(16, bottleneck=True, seed=seed).double() for seed in range(20)]
    x = y = randn(4, 16, 6, 6).double()
    with torch.no_grad():
        for unit in units:
            y = unit(y)
        for unit in reversed(units):
            y = unit.inverse(y)
    torch.testing.assert_close(y, x, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("bottleneck", [True, False])
def test_a_unit_with_a_zero_branch_swaps_and_two_do_nothing(bottleneck: bool) -> None:
    unit = unit_of(16, bottleneck)
    nn.init.zeros_((unit.branch.conv3 if bottleneck else unit.branch.conv2).weight)
    x = randn(2, 16, 5, 5)
    assert torch.equal(unit(x), torch.cat((x[:, 8:], x[:, :8]), dim=1))
    assert torch.equal(unit(unit(x)), x)


def test_two_units_are_a_block_of_the_original_revnet() -> None:
    # Source: Gomez et al. (2017), equation 6: y1 = x1 + F(x2), y2 = x2 + G(y1).
    f, g = unit_of(16, True, seed=1), unit_of(16, True, seed=2)
    x1, x2 = randn(4, 8, 6, 6, seed=1), randn(4, 8, 6, 6, seed=2)
    y1 = x1 + f.branch(x2)
    y2 = x2 + g.branch(y1)
    torch.testing.assert_close(g(f(torch.cat((x1, x2), dim=1))), torch.cat((y1, y2), dim=1))


def test_channels_that_cannot_be_halved_are_named() -> None:
    with pytest.raises(
        UserError, match=r"`channels` of a reversible unit must be an even number, got 15"
    ):
        ReversibleUnit(15, bottleneck=False)


@pytest.mark.parametrize("stride", [None, 1, 2])
def test_a_block_is_its_units_behind_pool_and_double(stride: int | None) -> None:
    with initialising(1):
        block = ReversibleBlock(16, 3, False, stride, recompute=False)
    x = expected = randn(4, 16 if stride is None else 8, 6, 6)
    if stride is not None:
        expected = pool_and_double(x, stride)
    for unit in copy.deepcopy(block):
        expected = unit(expected)
    torch.testing.assert_close(block(x), expected)


def both(recipe: ResidualRecipe) -> tuple[ResidualEncoder, ResidualEncoder]:
    """Return an encoder with the ordinary and one with the recomputing backward pass."""
    return (
        recipe.build(rng_key=1),
        dataclasses.replace(recipe, reversible_backward=True).build(rng_key=1),
    )


def gradients(encoder: nn.Module, images: Tensor, features: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a loss that weighs all features differently."""
    weights = torch.arange(features.numel()).view_as(features).sin()
    loss = (features.double().sin() * weights).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    return found | ({} if images.grad is None else {"images": images.grad})


def assert_equal_gradients(
    ordinary: dict[str, Tensor], recomputed: dict[str, Tensor], tolerance: float
) -> None:
    assert ordinary.keys() == recomputed.keys()
    for name, expected in ordinary.items():
        difference = (recomputed[name] - expected).norm() / expected.norm().clamp(min=1e-9)
        assert difference <= tolerance, name


Prepare = Callable[[nn.Module], object]
PREPARATIONS: dict[str, Prepare] = {
    "plain": lambda encoder: encoder.train(),
    "eval": lambda encoder: disturbed(encoder).eval(),
    "groups": lambda encoder: group_batch_norm(encoder, 2),
    "groups of pairs": lambda encoder: group_batch_norm(encoder, 1),
}


@pytest.mark.parametrize("recipe", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_recomputed_gradients_are_the_ordinary_ones(
    recipe: ResidualRecipe, preparation: str
) -> None:
    results = []
    for encoder in both(recipe):
        PREPARATIONS[preparation](encoder.double())
        images = randn(8, 3, 32, 32).double().requires_grad_()
        pairs = "pairs" in preparation
        # The backward pass comes after the block's end and a change of mode.
        with rows_per_image(encoder, 2) if pairs else nullcontext():
            features = encoder(images)
        training = encoder.training
        encoder.train(not training)
        results.append((features, gradients(encoder, images, features), encoder))
        assert all(module.training != training for module in encoder.modules())
    (features, ordinary, one), (same, recomputed, other) = results
    assert torch.equal(features, same)
    assert len(ordinary) == len(list(one.parameters())) + 1
    assert_equal_gradients(ordinary, recomputed, 1e-10)
    for a, b in zip(one.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b), "statistics move once"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backward_inside", [True, False])
def test_recomputed_gradients_are_the_ordinary_ones_under_autocast(
    training: bool, backward_inside: bool
) -> None:
    results = []
    for encoder in both(BASIC):
        encoder.train(training)
        images = randn(8, 3, 32, 32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            features = encoder(images)
            if backward_inside:
                results.append((features, gradients(encoder, images, features)))
        if not backward_inside:
            results.append((features, gradients(encoder, images, features)))
    (features, ordinary), (same, recomputed) = results
    assert torch.equal(features, same)
    assert_equal_gradients(ordinary, recomputed, 1e-5)


def test_under_autocast_the_sum_of_the_residuals_stays_in_float32() -> None:
    encoder = BASIC.build(rng_key=1)
    with torch.autocast("cpu", torch.bfloat16):
        taps = encoder.taps(randn(2, 3, 32, 32), encoder.tap_names)
        unit = encoder.get_submodule("block1.0")
        x = taps["block1"]
        assert isinstance(unit, ReversibleUnit)
        assert unit.residual(x[:, :8]).dtype == torch.bfloat16
        torch.testing.assert_close(unit.inverse(unit(x)), x, rtol=1e-5, atol=1e-6)
    assert taps["after_root"].dtype == torch.bfloat16
    assert all(taps[f"block{block}"].dtype == torch.float32 for block in range(1, 5))


def test_under_autocast_what_a_unit_keeps_is_in_lower_precision() -> None:
    unit = unit_of(16, bottleneck=True)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = randn(4, 16, 6, 6).requires_grad_()
    keeping = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with keeping, torch.autocast("cpu", torch.bfloat16):
        assert unit(x).dtype == torch.float32
    maps = [tensor for tensor in kept if tensor.ndim == 4 and tensor.shape[0] == len(x)]
    assert len(maps) >= 6
    assert {tensor.dtype for tensor in maps} == {torch.bfloat16}


def test_frozen_parameters_get_no_gradient_and_the_others_theirs() -> None:
    results = []
    for encoder in both(BASIC):
        encoder.double()
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_("conv1" in name and "block1" not in name)
        images = randn(4, 3, 32, 32).double()
        results.append(gradients(encoder, images, encoder(images)))
    assert 0 < len(results[0]) < 10
    assert_equal_gradients(results[0], results[1], 1e-10)


def kept_for_the_gradient(encoder: nn.Module, images: Tensor) -> int:
    """Return the bytes that autograd keeps beside parameters, each storage once."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in encoder.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # so that no other storage takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encoder(images).sum()
    return sum(kept.values())


def test_what_is_kept_does_not_grow_with_the_depth() -> None:
    recipe = dataclasses.replace(BASIC, root_stride=1)
    images = randn(2, 3, 16, 16)
    kept = {}
    for depth in (1, 8):
        for encoder in both(dataclasses.replace(recipe, units=(depth,) * 4)):
            recompute = encoder.recipe.reversible_backward
            kept[recompute, depth] = kept_for_the_gradient(encoder, images)
    assert kept[True, 8] == kept[True, 1]
    assert kept[False, 8] > 4 * kept[False, 1]
    assert kept[True, 1] < 0.6 * kept[False, 1]


def test_a_block_keeps_its_output_alone() -> None:
    block = ReversibleBlock(16, 5, False, None, recompute=True)
    x = randn(2, 16, 8, 8).requires_grad_()
    assert kept_for_the_gradient(block, x) == 4 * x.numel()


def test_nothing_is_kept_without_a_gradient() -> None:
    encoder = dataclasses.replace(BASIC, reversible_backward=True).build(rng_key=1)
    with torch.no_grad():
        assert not encoder(randn(2, 3, 16, 16)).requires_grad


def test_changed_parameters_are_noticed_as_in_any_backward_pass() -> None:
    for encoder in both(BASIC):
        features = encoder(randn(2, 3, 16, 16))
        with torch.no_grad():
            encoder.get_parameter("block3.1.branch.conv1.weight").add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            features.sum().backward()


def test_hooks_of_parameters_fire_once() -> None:
    encoder = dataclasses.replace(BASIC, reversible_backward=True).build(rng_key=1)
    fired: list[str] = []
    for name, parameter in encoder.named_parameters():

        def note(_: Tensor, name: str = name) -> None:
            fired.append(name)

        parameter.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]
    encoder(randn(2, 3, 16, 16)).sum().backward()
    assert sorted(fired) == sorted(name for name, _ in encoder.named_parameters())


def parallel_gradients() -> dict[str, Tensor]:
    """Return the gradients of this process's half of a batch, averaged by data parallelism."""
    recipe = dataclasses.replace(BASIC, reversible_backward=True)
    encoder = group_batch_norm(recipe.build(rng_key=1), 8)  # across processes
    rank = torch.distributed.get_rank()
    parallel = nn.parallel.DistributedDataParallel(encoder)
    features = parallel(randn(8, 3, 32, 32)[4 * rank : 4 * rank + 4])
    weights = torch.arange(8 * features.shape[1]).view(8, -1)[4 * rank : 4 * rank + 4].sin()
    (2 * features.sin() * weights).sum().backward()
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_two_processes_get_the_gradients_of_one() -> None:
    ordinary, _ = both(BASIC)
    images = randn(8, 3, 32, 32)
    expected = gradients(ordinary, images, ordinary(images))
    for found in run_processes(parallel_gradients, 2):
        assert_equal_gradients(expected, found, 1e-4)


def test_conditions_are_restored_without_updating_statistics() -> None:
    network = nn.Sequential(disturbed(nn.BatchNorm2d(3)), nn.ReLU(), disturbed(nn.BatchNorm2d(3)))
    group_batch_norm(network, 2)
    network[2].eval()
    images = randn(8, 3, 4, 4)
    with rows_per_image(network, 2):
        conditions = NormConditions(network)
        expected = network(images)
    before = copy.deepcopy(network.state_dict())
    network[0].eval()
    network[2].train()
    for _ in range(2):
        with conditions.restored():
            assert torch.equal(network(images), expected)
    assert not network[0].training
    assert network[2].training
    assert all(layer.group_size == 2 for layer in (network[0], network[2]))
    assert network.state_dict().keys() == before.keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_conditions_are_reset_after_an_error() -> None:
    layer = nn.BatchNorm2d(3)
    conditions = NormConditions(layer)
    layer.eval()
    with pytest.raises(ValueError, match="expected 4D input"), conditions.restored():
        layer(randn(2, 3))
    assert not layer.training
    assert layer.running_mean is not None
