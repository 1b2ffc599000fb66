"""Load an encoder from our files, other programs' files or torchvision."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torch import Tensor

from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.files import digest_of_tensors
from retable.random import derive_key
from retable.weights.architecture import filled_encoder, recognise
from retable.weights.encoder_files import HEADER, LoadedEncoder, encoder_from
from retable.weights.key_layouts import find_encoder
from retable.weights.weights_files import file_digest, read_weights


def load_encoder(path_or_spec: str | os.PathLike[str]) -> LoadedEncoder:
    """Load (encoder, recipe, metadata), the encoder in evaluation mode on the CPU.

    ``path_or_spec`` is one of

    - a file of `save_encoder`, or the folder of a run, which holds ``encoder.safetensors``;
    - a weights file of another program, ``.safetensors`` or what ``torch.load(weights_only=True)``
      reads: torchvision, timm, official MoCo, SwAV, DINO, BYOL-style, lightly, solo-learn, VISSL,
      Detectron2. The ResNet is found below any prefix, its depth, width and stem from its shapes;
      heads and everything else are dropped and named in ``metadata["dropped"]``;
    - ``FILE#NAME``, where a file has several ResNets: ``checkpoint.pth#encoder_k``;
    - ``torchvision:resnet50``, torchvision's supervised weights, downloaded: version 1, the plain
      recipe that papers compare with, unless another entry is named
      (``torchvision:resnet50:IMAGENET1K_V2``);
    - ``untrained:resnet50?width=2&stem=small&seed=0``, the random weights with which a pretraining
      of that seed begins: the baseline of every training.

    Raises:
        UserError: there is no such file, it is damaged, unsafe to load or of another architecture,
            it holds no ResNet or more than one, or its kind of encoder is unknown.
    """
    spec = os.fspath(path_or_spec)
    if spec.startswith("torchvision:"):
        return _load_torchvision(spec)
    if spec.startswith("untrained:"):
        return _build_untrained(spec)
    path, wanted = Path(spec), ""
    if not path.exists() and "#" in spec:
        before, _, wanted = spec.rpartition("#")
        path = Path(before)
    if path.is_dir():
        folder, path = path, path / "encoder.safetensors"
        if not path.is_file():
            raise UserError(
                f"The folder {folder} has no encoder.safetensors. Finish the run or name a weights "
                "file."
            )
    file = read_weights(path)
    if HEADER in file.header and not wanted:
        return encoder_from(file, path)
    origin = {"source": path.name, "sha256": file_digest(path)}
    return _load_resnet(file.tensors, str(path), origin, wanted)


def _load_resnet(
    tensors: Mapping[str, Tensor], place: str, origin: dict[str, Any], wanted: str = ""
) -> LoadedEncoder:
    """Load the ResNet among tensors; ``origin`` becomes part of its metadata."""
    try:
        found = find_encoder(tensors, wanted)
        recipe = recognise(found.state)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    where = {"layout": found.layout, "prefix": found.prefix, "dropped": list(found.dropped)}
    return LoadedEncoder(filled_encoder(recipe, found.state, place), recipe, origin | where)


def _load_torchvision(spec: str) -> LoadedEncoder:
    # Public, but torchvision re-exports it without saying so to type checkers.
    from torchvision.models import get_model_weights  # type: ignore[attr-defined]

    _, name, *entry = spec.split(":")
    try:
        weights = get_model_weights(name)[entry[0] if entry else "IMAGENET1K_V1"]
    except (ValueError, KeyError) as error:
        raise UserError(
            f"torchvision has no weights {spec!r} ({error}). Use, for example, "
            "torchvision:resnet50 or torchvision:resnet50:IMAGENET1K_V2."
        ) from error
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{spec} cannot be downloaded from {weights.url} ({error}). Download that file "
            "elsewhere and pass its path."
        ) from error
    source = f"torchvision:{name}:{weights.name}"
    origin = {"source": source, "sha256": digest_of_tensors(tensors)}
    return _load_resnet(tensors, spec, origin)


def _build_untrained(spec: str) -> LoadedEncoder:
    name, _, query = spec.removeprefix("untrained:").partition("?")
    types = {"width": float, "stem": str, "norm": str, "seed": int}
    values: dict[str, Any] = {}
    try:
        for field, text in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
            values[field] = types[field](text)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{spec!r} is no untrained encoder ({error}). Use, for example, "
            "untrained:resnet50?width=2&stem=small&seed=0."
        ) from error
    seed = values.pop("seed", 0)
    recipe = ResNetRecipe(name, **values)
    metadata = {"source": "untrained", "seed": seed, "recipe": dataclasses.asdict(recipe)}
    encoder = recipe.build(derive_key(seed, "encoder"))
    return LoadedEncoder(encoder.eval(), recipe, metadata)
