"""Our own encoder files: safetensors that say what they hold and how they came about."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from retable.encoders import EncoderRecipe, ResidualRecipe, ResNetRecipe, VggRecipe
from retable.errors import UserError
from retable.files import digest_of_tensors, write_bytes
from retable.weights.architecture import (
    encoder_label,
    expected_state,
    filled_encoder,
    refuse_differences,
)
from retable.weights.weights_files import WeightsFile

#: The one header entry of our files. One, because safetensors writes several in random order, and
#: equal encoders should be equal files.
HEADER = "retable"
FORMAT = 1

_FORMER_RESNET = "EncoderRecipe"
"""What the kind `ResNetRecipe` was called in files of earlier versions."""

_KINDS = {kind.__name__: kind for kind in (ResNetRecipe, ResidualRecipe, VggRecipe)}
_KINDS[_FORMER_RESNET] = ResNetRecipe


class LoadedEncoder(NamedTuple):
    """An encoder in evaluation mode on the CPU, its recipe, and what its file says about it."""

    encoder: nn.Module
    recipe: EncoderRecipe
    metadata: dict[str, Any]


def save_encoder(
    path: str | os.PathLike[str],
    encoder: nn.Module,
    recipe: EncoderRecipe,
    metadata: Mapping[str, Any],
) -> None:
    """Write an encoder as safetensors, atomically, with its recipe and ``metadata`` (JSON values).

    The tensors carry the encoder's names, torchvision's for an `ResNetRecipe`, so that other
    programs can read the file without Retable.
    Equal weights, recipe and metadata give equal bytes. Call it on one process only.

    Raises:
        UserError: if the encoder is not what ``recipe`` builds.
    """
    from safetensors.torch import save

    state = plain_state(encoder)
    refuse_differences(
        expected_state(recipe), state, f"The encoder to save is not a {encoder_label(recipe)}"
    )
    header = {
        "format": FORMAT,
        "kind": type(recipe).__name__,
        "metadata": dict(metadata),
        "recipe": dataclasses.asdict(recipe),
        "sha256": digest_of_tensors(state),
    }
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, save(state, metadata={HEADER: text}))


def plain_state(encoder: nn.Module) -> dict[str, Tensor]:
    """Return a copy of an encoder's state on the CPU, contiguous in the usual order of axes.

    Names lose what ``torch.compile`` and data parallelism put before them or in between.
    """
    wrappers = {"_orig_mod", "module"}
    state: dict[str, Tensor] = {}
    for name, value in encoder.state_dict().items():
        plain = ".".join(part for part in name.split(".") if part not in wrappers)
        state[plain] = value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
    return state


def is_own(file: WeightsFile) -> bool:
    """Whether a weights file was written by `save_encoder`."""
    return HEADER in file.header


def encoder_from(file: WeightsFile, path: Path) -> LoadedEncoder:
    """Rebuild what `save_encoder` wrote.

    Raises:
        UserError: if the file comes from a newer version, or its weights are not those saved.
    """
    try:
        header = json.loads(file.header[HEADER])
        # Files from before there were several kinds do not name theirs.
        recipe = _KINDS[header.get("kind", _FORMER_RESNET)](**header["recipe"])
        metadata, digest, version = header["metadata"], header["sha256"], header["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} has an encoder header that this version cannot read ({error}); "
            f"expected format {FORMAT}, install the version of retable that wrote it."
        ) from error
    if version != FORMAT:
        raise UserError(
            f"{path} has encoder format {version}; expected format {FORMAT}, "
            f"install the version of retable that wrote it."
        )
    if digest_of_tensors(file.tensors) != digest:
        raise UserError(
            f"{path} is damaged: its weights do not have the checksum of its header; "
            f"copy it again or make it anew."
        )
    return LoadedEncoder(filled_encoder(recipe, file.tensors, str(path)), recipe, metadata)
