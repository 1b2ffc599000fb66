"""Exports of encoders to other programs, under the names that they use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from retable.encoders import EncoderRecipe, ResNetRecipe
from retable.errors import UserError
from retable.files import write_atomically, write_bytes
from retable.weights.encoder_files import plain_state
from retable.weights.key_layouts import to_detectron2

Layout = Literal["torchvision", "timm", "detectron2"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

# What `MODEL.RESNETS.DEPTH` of Detectron2 accepts.
_DETECTRON2_NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def export_encoder(encoder: nn.Module, recipe: EncoderRecipe, layout: Layout) -> dict[str, Tensor]:
    """Return a ResNet's tensors under another program's names; copies on the CPU.

    - ``torchvision`` loads strictly into ``torchvision.models.resnet50()`` once its ``fc`` is
      ``nn.Identity()``; with the small stem, once ``conv1`` is ``nn.Conv2d(3, 64, 3, padding=1,
      bias=False)`` and ``maxpool`` is ``nn.Identity()`` too.
    - ``timm`` loads strictly into ``timm.create_model("resnet50", num_classes=0)``, with the small
      stem after the same two changes. A stem of other strides, padding or pooling, which the
      recipe's label names, has to be set up in the same way.
    - ``detectron2`` is for its ResNet backbones, with ``MODEL.RESNETS.STRIDE_IN_1X1: False``, RGB
      input and torchvision's mean and deviation times 255; the ImageNet stem only. For width w set
      ``STEM_OUT_CHANNELS``, ``RES2_OUT_CHANNELS`` and ``WIDTH_PER_GROUP`` to w times their values.

    Raises:
        UserError: the encoder is not what ``recipe`` builds, or the program has no such network.
    """
    if layout not in LAYOUTS:
        raise UserError(f"`layout` must be one of {', '.join(LAYOUTS)}, got {layout!r}.")
    state = plain_state(encoder, recipe)
    if not isinstance(recipe, ResNetRecipe) or not recipe.name.startswith("resnet"):
        raise UserError(
            f"`encoder` must be resnet18 to resnet200 for the {layout} layout, got a "
            f"{recipe.label}. Use the encoder's own safetensors file."
        )
    if layout != "detectron2":
        return state
    usual = recipe.stem == "imagenet" and recipe.norm == "batch" and not recipe.details
    if not usual or recipe.name not in _DETECTRON2_NAMES:
        raise UserError(
            f"Detectron2 has no {recipe.label} and {recipe.norm} norm. Use one of "
            f"{', '.join(_DETECTRON2_NAMES)} with the imagenet stem and batch norm."
        )
    return {to_detectron2(name): value for name, value in state.items()}


def save_export(
    path: str | os.PathLike[str], encoder: nn.Module, recipe: EncoderRecipe, layout: Layout
) -> None:
    """Write `export_encoder`'s tensors to a file that the other program opens, atomically.

    The ending is ``.safetensors``, or ``.pth`` for ``torch.load(weights_only=True)``. Detectron2
    reads only ``.pth``, named in ``MODEL.WEIGHTS``.
    """
    path = Path(path)
    endings = (".pth",) if layout == "detectron2" else (".safetensors", ".pth")
    if path.suffix not in endings:
        raise UserError(
            f"The name of an export in the {layout} layout must end in {' or '.join(endings)}, got "
            f"{path}."
        )
    state = export_encoder(encoder, recipe, layout)
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        write_bytes(path, save(state, metadata={"format": "pt"}))
        return
    content = {"model": state, "matching_heuristics": True} if layout == "detectron2" else state
    with write_atomically(path) as file:
        torch.save(content, file)
