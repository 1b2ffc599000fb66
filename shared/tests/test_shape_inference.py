from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from retable import random
from retable.encoders import ResNetRecipe
from retable.nn.queues import KeyQueue
from retable.random import initialising
from retable.train.cost import forward_flops
from retable.train.shape_inference import LARGE, shapes_only

torch.set_num_threads(1)


def kept_for_backward(network: nn.Module, images: Tensor) -> list[tuple[str, int]]:
    """Return type and bytes of each storage that a forward pass keeps, without the weights'."""
    own = {value.untyped_storage().data_ptr() for value in network.parameters()}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(images)
    storages = {t.untyped_storage().data_ptr(): t for t in kept}
    return sorted(
        (str(tensor.dtype), tensor.untyped_storage().nbytes())
        for address, tensor in storages.items()
        if address not in own
    )


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "small_resnet14"])
def test_an_encoder_keeps_for_its_backward_pass_what_the_real_one_keeps(name: str) -> None:
    encoder = ResNetRecipe(name, width=0.25).build(0)
    images = torch.zeros(2, 3, 64, 64)
    real = kept_for_backward(encoder, images)
    with shapes_only():
        assert encoder(images).shape == (2, encoder.feature_dim)
        inferred = kept_for_backward(encoder, images)
    assert inferred == real


@pytest.mark.parametrize(
    ("arguments", "side"),
    [
        ({"kernel_size": 3}, 9),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, 8),
        ({"kernel_size": (1, 5), "stride": (3, 1), "padding": (0, 2), "dilation": (1, 2)}, 13),
        ({"kernel_size": 7, "stride": 2, "padding": 3, "groups": 2}, 10),
        ({"kernel_size": 3, "padding": "same"}, 6),
    ],
)
def test_convolutions_have_the_shapes_that_torch_gives_them(
    arguments: dict[str, object], side: int
) -> None:
    layer = nn.Conv2d(4, 6, **arguments)  # type: ignore[arg-type]
    images = torch.zeros(2, 4, side, side + 3)
    expected = layer(images).shape
    with shapes_only():
        assert layer(images).shape == expected


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5)])
def test_linear_layers_have_the_shapes_that_torch_gives_them(shape: tuple[int, ...]) -> None:
    layer, rows = nn.Linear(5, 7), torch.ones(shape)
    expected = layer(rows).shape
    with shapes_only():
        output = layer(rows)
    assert output.shape == expected


def test_products_have_the_type_that_autocast_gives_them() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    images = torch.zeros(2, 3, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(images).dtype == torch.bfloat16
        with shapes_only():
            assert network(images).dtype == torch.bfloat16


def test_operations_counted_without_products_are_the_same() -> None:
    recipe = ResNetRecipe("resnet18", width=0.5)
    with shapes_only():
        inferred = forward_flops(recipe.build(0), 64)
    assert inferred == forward_flops(recipe.build(0), 64)


DRAWS = (
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
    nn.init.xavier_normal_,
    nn.init.xavier_uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.trunc_normal_,
    Tensor.normal_,
    Tensor.uniform_,
)


@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: draw.__qualname__)
def test_weights_are_drawn_if_they_are_few_and_else_left_alone(
    draw: Callable[..., Tensor],
) -> None:
    with initialising(0), shapes_only():
        assert draw(torch.zeros(8, 8)).any()
        assert not draw(torch.zeros(LARGE, 2)).any()


def test_large_layers_are_not_drawn_but_set_where_they_are_set() -> None:
    with initialising(0), shapes_only():
        layer = nn.Linear(LARGE, 2)
        nn.init.constant_(layer.weight, 3.0)
        other = nn.Linear(LARGE, 2)
        nn.init.trunc_normal_(other.weight, std=0.01, a=-0.02, b=0.02)  # repeats what is outside
    assert (layer.weight == 3).all()
    assert layer.bias.all()
    assert not other.weight.any()


def test_only_large_float32_tensors_on_the_cpu_are_replaced() -> None:
    with shapes_only():
        assert torch.empty(LARGE, dtype=torch.int64).dtype == torch.int64
        assert torch.empty(LARGE, device="meta").is_meta
        assert torch.empty(LARGE, 2).shape == torch.empty((LARGE, 2)).shape == (LARGE, 2)
        assert torch.empty(LARGE, dtype=torch.float64).normal_().any()
        with torch.device("meta"):
            assert torch.empty(LARGE).is_meta


def test_large_draws_by_our_own_keys_are_not_made_either() -> None:
    with shapes_only():
        queue = KeyQueue(LARGE, 2, rng_key=0)
        assert queue.rows.shape == (LARGE, 2)
        assert not queue.rows.any()
        assert random.normal(0, torch.arange(5)).any()
    assert KeyQueue(LARGE, 2, rng_key=0).rows.all()


def test_after_it_products_and_draws_are_real_again() -> None:
    with shapes_only():
        pass
    with initialising(0):
        layer = nn.Linear(LARGE, 2)
    assert layer.weight.any()
    assert layer(torch.ones(1, LARGE)).any()


def test_a_wide_network_takes_no_memory_for_its_weights_and_imports_no_compiler() -> None:
    program = """
import resource, sys
from torch import nn
from retable.train.shape_inference import shapes_only
from retable.encoders import ResNetRecipe
from retable.train.cost import forward_flops
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with shapes_only():
    encoder = ResNetRecipe("resnet50", width=4.0).build(0)
    forward_flops(encoder, 32)
assert sum(p.numel() for p in encoder.parameters()) > 3e8
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(ended.stdout) * 1024 < 0.2e9  # of 1.5e9 bytes of weights; ru_maxrss is in KiB
