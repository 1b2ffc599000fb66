"""Recognise the ResNet that a state dict belongs to, and load state dicts completely."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from retable.encoders import Encoder, EncoderRecipe, ResNetRecipe
from retable.encoders.resnet import DEPTHS
from retable.errors import UserError


def recognise(state: Mapping[str, Tensor]) -> ResNetRecipe:
    """Return the recipe of a ResNet from the shapes of its tensors, under torchvision's names.

    A 7x7 first convolution means the ImageNet stem, a 3x3 one the small stem. What shapes do not
    show is assumed as in torchvision: strides (in the 3x3 convolution of a bottleneck), paddings,
    and for the small stem stride 1, padding 1 and no pooling (solo-learn pads its small stem by 2).
    """
    pattern = re.compile(r"layer([1-4])\.\d+\.conv1\.weight")
    stages = [match[1] for name in state if (match := pattern.fullmatch(name))]
    blocks = tuple(stages.count(stage) for stage in "1234")
    bottleneck = "layer1.0.conv3.weight" in state
    names = [name for name, depth in DEPTHS.items() if depth == (blocks, bottleneck)]
    if not names:
        kind = "bottleneck" if bottleneck else "basic"
        raise UserError(
            f"The weights must have the blocks of {', '.join(DEPTHS)}, got {blocks} {kind} blocks "
            "in four stages."
        )
    channels, inputs, *kernel = state["conv1.weight"].shape
    if inputs != 3 or kernel not in ([7, 7], [3, 3]):
        raise UserError(
            "The first convolution must have 3 input channels and a 7x7 kernel (ImageNet stem) or "
            f"3x3 (small stem), got {tuple(state['conv1.weight'].shape)}."
        )
    return ResNetRecipe(
        names[0], width=channels / 64, stem="imagenet" if kernel == [7, 7] else "small"
    )


def filled_encoder(recipe: EncoderRecipe, state: Mapping[str, Tensor], source: str) -> Encoder:
    """Build the encoder of ``recipe`` with the values of ``state``, in evaluation mode.

    ``num_batches_tracked`` may be missing: nothing here reads it, and files of before 2018 lack it.
    """
    expected = expected_state(recipe)
    state = dict(state)
    for name in expected.keys() - state.keys():
        if name.endswith(".num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.long)
    refuse_differences(expected, state, f"{source} does not hold a {recipe.label}")
    encoder = recipe.build(rng_key=0)
    encoder.load_state_dict(state)
    return encoder.eval()


def expected_state(recipe: EncoderRecipe) -> dict[str, Tensor]:
    """Return names and shapes of an encoder's state as tensors on the meta device."""
    with torch.device("meta"):
        return recipe.build(rng_key=0).state_dict()


def refuse_differences(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], complaint: str
) -> None:
    """Raise a UserError that names a few tensors if two state dicts differ in names or shapes."""
    shapes = [
        f"{name} of shape {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    differences = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", [name for name in expected if name not in state]),
            ("unexpected", [name for name in state if name not in expected]),
            ("differing", shapes),
        )
        if names
    ]
    if differences:
        raise UserError(
            f"{complaint}: tensors {'; '.join(differences)}. Check that the file is complete and "
            "of that architecture."
        )
