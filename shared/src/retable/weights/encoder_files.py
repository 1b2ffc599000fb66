"""Retable's own encoder files: safetensors with the encoder's recipe and metadata in the header."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from retable.encoders import Encoder, EncoderRecipe
from retable.encoders.registry import encoder_kind, recipe_class
from retable.errors import UserError
from retable.files import digest_of_tensors, write_bytes
from retable.settings import from_plain
from retable.weights.architecture import expected_state, filled_encoder, refuse_differences
from retable.weights.weights_files import WeightsFile

#: The only header entry of our files: safetensors writes several entries in random order, and equal
#: encoders must give equal files.
HEADER = "retable"
FORMAT = 1

_FORMER_KINDS = {None: "ResNetRecipe", "EncoderRecipe": "ResNetRecipe"}
"""Kinds of earlier versions' files; the first files had ResNets only and named no kind."""


class LoadedEncoder(NamedTuple):
    """An encoder in evaluation mode on the CPU, its recipe, and the metadata of its file."""

    encoder: Encoder
    recipe: EncoderRecipe
    metadata: dict[str, Any]


def save_encoder(
    path: str | os.PathLike[str],
    encoder: nn.Module,
    recipe: EncoderRecipe,
    metadata: Mapping[str, Any],
) -> None:
    """Write an encoder as safetensors, atomically, with its recipe and ``metadata`` (JSON values).

    The tensors have the encoder's names (torchvision's for a `ResNetRecipe`), so that other
    programs can read the file without Retable. Equal weights, recipe and metadata give equal bytes.
    Call it on one process only. A UserError is raised if the encoder is not what ``recipe`` builds,
    or the recipe's class is not registered, see `retable.encoders.register_encoder`.
    """
    from safetensors.torch import save

    kind = encoder_kind(recipe)
    state = plain_state(encoder, recipe)
    header = {
        "format": FORMAT,
        "kind": kind,
        "metadata": dict(metadata),
        "recipe": dataclasses.asdict(recipe),  # type: ignore[call-overload]
        "sha256": digest_of_tensors(state),
    }
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, save(state, metadata={HEADER: text}))


def plain_state(encoder: nn.Module, recipe: EncoderRecipe) -> dict[str, Tensor]:
    """Return a copy of an encoder's state on the CPU, contiguous in the usual order of axes.

    The prefixes that ``torch.compile`` and data parallelism add to names are removed. A UserError
    is raised unless the encoder is what ``recipe`` builds.
    """
    wrappers = {"_orig_mod", "module"}
    state: dict[str, Tensor] = {}
    for name, value in encoder.state_dict().items():
        plain = ".".join(part for part in name.split(".") if part not in wrappers)
        state[plain] = value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
    refuse_differences(expected_state(recipe), state, f"The encoder is not a {recipe.label}")
    return state


def encoder_from(file: WeightsFile, path: Path) -> LoadedEncoder:
    """Load a file of `save_encoder`, which has a `HEADER`."""
    try:
        header = json.loads(file.header[HEADER])
        kind = header.get("kind")
        recipe = from_plain(recipe_class(_FORMER_KINDS.get(kind, kind)), header["recipe"])
        metadata, digest, version = header["metadata"], header["sha256"], header["format"]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} has an encoder header that this version cannot read ({error}). Install the "
            "version of retable that wrote it."
        ) from error
    if version != FORMAT:
        raise UserError(
            f"The format of {path} must be {FORMAT}, got {version}. Install the version of retable "
            "that wrote it."
        )
    if digest_of_tensors(file.tensors) != digest:
        raise UserError(
            f"{path} is damaged: its weights do not have the checksum of its header. Copy it or "
            "save it again."
        )
    available = path.stat().st_size
    encoder = filled_encoder(recipe, file.tensors, str(path), available)
    return LoadedEncoder(encoder, recipe, metadata)
