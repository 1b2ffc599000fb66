"""Encoders from converted official checkpoints: names of Haiku's modules to torchvision's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from relicv2.official.network import HaikuResNet, HaikuResNetRecipe
from retable.encoders.resnet import DEPTHS
from retable.errors import UserError
from retable.weights.weights_files import read_weights

PARAMETERS, STATE = "online_params", "online_state"
"""First parts of the names of a converted file; modules and the names of values follow."""

_STEM = "initial_conv/w"

_BLOCK = re.compile(
    r"block_group_(\d+)/~/block_(\d+)/~/(?:(conv|batchnorm)_(\d+)|(shortcut)_(conv|batchnorm))"
)

_VALUES = {
    "w": "weight",
    "scale": "weight",
    "offset": "bias",
    "~/mean_ema/average": "running_mean",
    "~/var_ema/average": "running_var",
}
"""Ends of Haiku's names -> torch's names of the same values."""


def read_official(path: Path) -> tuple[HaikuResNet, HaikuResNetRecipe]:
    """Return the online encoder of a converted checkpoint, in evaluation mode.

    Args:
        path: a safetensors file whose tensors are named ``online_params/MODULE/NAME`` and
            ``online_state/MODULE/NAME`` (the package's README has the conversion).

    Raises:
        UserError: the file is damaged or is none of these.
    """
    tensors = read_weights(path).tensors
    state = torchvision_state(tensors, str(path))
    recipe = recognise(state, str(path))
    encoder = recipe.build(0)
    wanted = {name for name in encoder.state_dict() if not name.endswith("num_batches_tracked")}
    if missing := sorted(wanted - state.keys()):
        raise UserError(
            f"{path} must have all weights of a {recipe.label}, got none for {missing[0]}. Convert "
            "the checkpoint again."
        )
    if beyond := sorted(state.keys() - wanted):
        raise UserError(f"{path} must be a {recipe.label}, got a weight {beyond[0]} beyond it.")
    shapes = encoder.state_dict()
    for name in sorted(wanted):
        if state[name].shape != shapes[name].shape:
            raise UserError(
                f"{path} must be a {recipe.label}, whose {name} has the shape "
                f"{tuple(shapes[name].shape)}, got {tuple(state[name].shape)}. Convert the "
                "checkpoint again."
            )
    encoder.load_state_dict(state, strict=False)
    return encoder.eval(), recipe


def torchvision_state(tensors: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """Return the encoder's weights by torchvision's names, in torch's order of dimensions.

    ``tensors`` are those of a converted checkpoint; projector and predictor are left out.
    """
    stems = [name for name in tensors if name.endswith(_STEM) and name.startswith(PARAMETERS)]
    if len(stems) != 1:
        raise UserError(
            f"{file} must have one tensor {PARAMETERS}/.../{_STEM}, got {len(stems)}. Convert the "
            "checkpoint as the README of relicv2 shows."
        )
    module = stems[0].removeprefix(f"{PARAMETERS}/").removesuffix(_STEM)
    state: dict[str, Tensor] = {}
    for part in (PARAMETERS, STATE):
        prefix = f"{part}/{module}"
        for name, value in tensors.items():
            if name.startswith(prefix) and (found := torchvision_name(name[len(prefix) :])):
                state[found] = _in_torch_s_order(value)
    return state


def torchvision_name(name: str) -> str | None:
    """Return torchvision's name of a weight, None of one that torch's networks do not have.

    >>> torchvision_name("block_group_2/~/block_5/~/batchnorm_1/~/var_ema/average")
    'layer3.5.bn2.running_var'
    >>> torchvision_name("block_group_0/~/block_0/~/shortcut_conv/w")
    'layer1.0.downsample.0.weight'
    """
    end = next((end for end in _VALUES if name.endswith(f"/{end}")), None)
    if end is None:
        return None
    module = name.removesuffix(f"/{end}")
    stem = {"initial_conv": "conv1", "initial_batchnorm": "bn1"}
    if module in stem:
        return f"{stem[module]}.{_VALUES[end]}"
    block = _BLOCK.fullmatch(module)
    if block is None:
        return None
    group, index, kind, which = filter(None, block.groups())
    inner = {
        "conv": lambda: f"conv{int(which) + 1}",
        "batchnorm": lambda: f"bn{int(which) + 1}",
        "shortcut": lambda: f"downsample.{['conv', 'batchnorm'].index(which)}",
    }[kind]()
    return f"layer{int(group) + 1}.{index}.{inner}.{_VALUES[end]}"


def _in_torch_s_order(value: Tensor) -> Tensor:
    """Return a kernel (h, w, in, out) as (out, in, h, w), and statistics (1, 1, 1, C) as (C,)."""
    if value.dim() == 4 and value.shape[:3] != (1, 1, 1):
        return value.permute(3, 2, 0, 1).contiguous()
    return value.flatten()


def recognise(state: Mapping[str, Tensor], file: str) -> HaikuResNetRecipe:
    """Return the recipe of the encoder with these weights."""
    blocks = [0, 0, 0, 0]
    for name in state:
        if found := re.match(r"layer([1-4])\.(\d+)\.", name):
            stage, index = int(found[1]) - 1, int(found[2])
            blocks[stage] = max(blocks[stage], index + 1)
    known = {depths: name for name, (depths, bottleneck) in DEPTHS.items() if bottleneck}
    bottleneck = {"layer1.0.conv3.weight", "bn1.weight"} <= state.keys()
    if tuple(blocks) not in known or not bottleneck:
        raise UserError(
            f"{file} must hold a ResNet of bottlenecks, {', '.join(known.values())}, got one with "
            f"{blocks} blocks. Convert another checkpoint."
        )
    width = len(state["bn1.weight"]) / 64
    return HaikuResNetRecipe(known[tuple(blocks)], width)  # type: ignore[arg-type]
