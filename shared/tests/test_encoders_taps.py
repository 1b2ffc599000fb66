"""Every encoder gives its activations at several depths, in one pass and no further than asked."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retable.encoders import (
    Encoder,
    EncoderRecipe,
    ResidualRecipe,
    ResNetRecipe,
    VggRecipe,
    build_encoder,
)
from retable.errors import UserError
from retable.train.cost import forward_flops

torch.set_num_threads(1)

TINY: dict[str, Any] = {"units": (1, 2, 1, 1), "bottleneck": False, "widening": 1}
SMALL_VGG = VggRecipe(1, (1, 1, 2, 1, 1), (True, True, True, True, False), fc_kernel=2)
RECIPES: dict[str, EncoderRecipe] = {
    "resnet18": ResNetRecipe("resnet18", width=0.25),
    "resnet50": ResNetRecipe("resnet50", width=0.125, stem="small"),
    "small_resnet8": ResNetRecipe("small_resnet8"),
    "small_resnet14": ResNetRecipe("small_resnet14", stem="small"),
    "v1": ResidualRecipe("v1", **TINY),
    "v1 bottleneck": ResidualRecipe("v1", units=(1, 1, 1, 1), widening=1),
    "v2": ResidualRecipe("v2", **TINY),
    "v2 without skip connections": ResidualRecipe("v2", skip=False, **TINY),
    "reversible": ResidualRecipe("reversible", **TINY),
    "recomputing": ResidualRecipe("reversible", reversible_backward=True, **TINY),
    "vgg": SMALL_VGG,
}
each_encoder = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())


def images(count: int = 4, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def build(recipe: EncoderRecipe) -> Encoder:
    return build_encoder(recipe, rng_key=1)


@each_encoder
@pytest.mark.parametrize("training", [True, False])
def test_the_last_tap_is_the_output(recipe: EncoderRecipe, training: bool) -> None:
    encoder = build(recipe).train(training)
    assert encoder.tap_names[-1] == "pre_logits"
    features = encoder(images())
    assert features.shape == (4, encoder.feature_dim)
    assert torch.equal(features, encoder.taps(images(), ("pre_logits",))["pre_logits"])


@each_encoder
def test_taps_are_those_of_one_pass_in_the_order_asked_for(recipe: EncoderRecipe) -> None:
    encoder = build(recipe).eval()
    every = encoder.taps(images(), encoder.tap_names)
    assert tuple(every) == encoder.tap_names
    assert all(every[name].ndim == 4 for name in encoder.tap_names[:-1])
    for name in encoder.tap_names:
        assert torch.equal(encoder.taps(images(), [name])[name], every[name])
    backwards = encoder.taps(images(), encoder.tap_names[::-1])
    assert tuple(backwards) == encoder.tap_names[::-1]
    for name, value in backwards.items():
        assert torch.equal(value, every[name])
    # Nothing later in the pass has changed what was tapped earlier.
    once = build(recipe).train()
    for batch_norm in (layer for layer in once.modules() if isinstance(layer, nn.BatchNorm2d)):
        assert batch_norm.num_batches_tracked == 0
    once.taps(images(), once.tap_names)
    for batch_norm in (layer for layer in once.modules() if isinstance(layer, nn.BatchNorm2d)):
        assert batch_norm.num_batches_tracked == 1


@each_encoder
def test_nothing_beyond_the_deepest_tap_is_computed(recipe: EncoderRecipe) -> None:
    encoder = build(recipe).eval()
    convolutions = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
    calls: list[nn.Module] = []
    for layer in convolutions:
        layer.register_forward_hook(lambda layer, *_: calls.append(layer))
    counts = []
    for name in encoder.tap_names:
        calls.clear()
        encoder.taps(images(), (name, encoder.tap_names[0]))
        assert len(set(calls)) == len(calls), "no layer runs twice"
        counts.append(len(calls))
    assert counts == sorted(counts)
    assert counts[0] < counts[-2]
    assert counts[-1] == len(convolutions)


@each_encoder
def test_no_name_and_an_unknown_name(recipe: EncoderRecipe) -> None:
    encoder = build(recipe)
    assert encoder.taps(images(), ()) == {}
    with pytest.raises(UserError, match=r"no tap 'logits'; use some of .*, pre_logits\."):
        encoder.taps(images(), ("pre_logits", "logits"))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "small_resnet14"])
def test_taps_of_a_resnet_are_what_leaves_its_stages(name: str) -> None:
    encoder = build(RECIPES[name]).eval()
    taps = encoder.taps(images(), encoder.tap_names)
    left: dict[str, Tensor] = {}

    def keep(place: str) -> Any:
        return lambda _, __, output: left.update({place: output})

    depth = 2
    for stage, tap in enumerate(encoder.tap_names[:-1]):
        last = f"blocks.{(stage + 1) * depth - 1}" if name.startswith("small") else tap
        encoder.get_submodule(last).register_forward_hook(keep(tap))
    features = encoder(images())
    assert left.keys() == set(encoder.tap_names[:-1])
    for tap, value in left.items():
        assert torch.equal(taps[tap], value)
    torch.testing.assert_close(taps[encoder.tap_names[-2]].mean((2, 3)), features)


@each_encoder
def test_copies_share_nothing_and_weights_are_a_function_of_the_key(
    recipe: EncoderRecipe,
) -> None:
    before = torch.random.get_rng_state()
    encoder, same, other = (build_encoder(recipe, key) for key in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    weight, *_ = encoder.parameters()
    assert torch.equal(weight, next(same.parameters()))
    assert not torch.equal(weight, next(other.parameters()))
    copied = copy.deepcopy(encoder)
    copied(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert {t.data_ptr() for t in copied.parameters()}.isdisjoint(
        t.data_ptr() for t in encoder.parameters()
    )


@each_encoder
def test_operations_are_counted_and_the_meta_device_takes_it(recipe: EncoderRecipe) -> None:
    encoder = build(recipe).eval()
    operations = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal operations
        operations += 2 * output.numel() * layer.get_parameter("weight")[0].numel()

    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    encoder(images(1))
    expected = operations
    assert forward_flops(encoder, 32) == expected > 0
    with torch.device("meta"):
        empty = build(recipe)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    assert {n: t.shape for n, t in empty.state_dict().items()} == {
        n: t.shape for n, t in encoder.state_dict().items()
    }
