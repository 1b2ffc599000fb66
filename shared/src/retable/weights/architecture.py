"""Telling which ResNet a state dict belongs to, naming encoders, and filling one without gaps."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from retable.encoders import (
    EncoderRecipe,
    ResidualRecipe,
    ResNetRecipe,
    VggRecipe,
    build_encoder,
)
from retable.encoders.resnet import DEPTHS
from retable.errors import UserError


def recognise(state: Mapping[str, Tensor]) -> ResNetRecipe:
    """Return the recipe of a ResNet under torchvision's names: depth, width and stem from shapes.

    A 7x7 first convolution means the ImageNet stem, a 3x3 one the small stem. What shapes do not
    show is taken as in torchvision: strides (in the 3x3 convolution of a bottleneck), paddings, and
    for the small stem stride 1, padding 1 and no pooling (solo-learn pads its small stem by 2).

    Raises:
        UserError: if the number of blocks or the stem is none of ours.

    >>> recipe = ResNetRecipe("resnet18", width=0.25)
    >>> recognise(build_encoder(recipe, rng_key=0).state_dict()) == recipe
    True
    """
    blocks = tuple(_count_blocks(state, stage) for stage in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in state
    names = [name for name, depth in DEPTHS.items() if depth == (blocks, bottleneck)]
    if not names:
        kind = "bottleneck" if bottleneck else "basic"
        raise UserError(
            f"The weights have {blocks} {kind} blocks in their four stages; "
            f"expected those of {', '.join(DEPTHS)}."
        )
    channels, inputs, *kernel = state["conv1.weight"].shape
    if inputs != 3 or kernel not in ([7, 7], [3, 3]):
        raise UserError(
            f"The first convolution is {tuple(state['conv1.weight'].shape)}; expected 3 input "
            f"channels and a 7x7 kernel (ImageNet stem) or 3x3 (small stem)."
        )
    return ResNetRecipe(
        names[0], width=channels / 64, stem="imagenet" if kernel == [7, 7] else "small"
    )


def _count_blocks(state: Mapping[str, Tensor], stage: int) -> int:
    pattern = re.compile(rf"layer{stage}\.(\d+)\.conv1\.weight")
    return len({match[1] for name in state if (match := pattern.fullmatch(name))})


def filled_encoder(recipe: EncoderRecipe, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """Build the encoder of ``recipe`` with the values of ``state``, in evaluation mode.

    ``num_batches_tracked``, which files of before 2018 lack and nothing here reads, may be missing.

    Raises:
        UserError: naming ``source`` and the first missing, unexpected or differing tensors.
    """
    expected = expected_state(recipe)
    state = dict(state)
    for name in expected.keys() - state.keys():
        if name.endswith(".num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.long)
    refuse_differences(expected, state, f"{source} does not hold a {encoder_label(recipe)}")
    encoder: nn.Module = build_encoder(recipe, rng_key=0)
    encoder.load_state_dict(state)
    return encoder.eval()


def expected_state(recipe: EncoderRecipe) -> dict[str, Tensor]:
    """Return names and shapes of an encoder's state as tensors without values: no memory."""
    with torch.device("meta"):
        return build_encoder(recipe, rng_key=0).state_dict()


def refuse_differences(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], complaint: str
) -> None:
    """Raise a UserError that names a few tensors if names or shapes of two state dicts differ."""
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
            f"{complaint}: tensors {'; '.join(differences)}; check that the file is complete and "
            f"of that architecture."
        )


def encoder_label(recipe: EncoderRecipe) -> str:
    """Name an encoder in words, for messages.

    >>> encoder_label(ResNetRecipe())
    'resnet50 of width 1 with the imagenet stem'
    >>> encoder_label(VggRecipe())
    'VGG19-BN 8x for 7x7 maps before its first fully connected layer'
    """
    if isinstance(recipe, ResidualRecipe):
        return _describe_residual(recipe)
    if isinstance(recipe, VggRecipe):
        side = recipe.fc_kernel
        return (
            f"VGG{sum(recipe.stacks) + 3}-BN {recipe.widening}x for {side}x{side} maps before its "
            f"first fully connected layer"
        )
    return f"{recipe.name} of width {recipe.width:g} with the {recipe.stem} stem"


def _describe_residual(recipe: ResidualRecipe) -> str:
    """Name a residual encoder as the tables do, and say what their names leave out.

    >>> _describe_residual(ResidualRecipe("reversible", last_relu=False))
    'RevNet50 (-) 4x with a 7x7/2 root, pooling and block strides 1, 2, 2, 2'
    """
    depth = 2 + sum(recipe.units) * (3 if recipe.bottleneck else 2)
    reversible = recipe.version == "reversible"
    name = f"RevNet{depth}" if reversible else f"ResNet{depth} {recipe.version}"
    return (
        f"{name}{'' if recipe.last_relu else ' (-)'} {recipe.widening}x"
        f"{'' if recipe.skip else ' without skip connections'} with a "
        f"{recipe.root_kernel}x{recipe.root_kernel}/{recipe.root_stride} root, "
        f"{'' if recipe.root_pool else 'no '}pooling and block strides "
        f"{', '.join(map(str, recipe.strides))}"
    )
