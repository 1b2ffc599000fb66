"""Load an encoder from our files, other programs' files or torchvision."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.files import digest_of_tensors
from retable.random import derive_key
from retable.text import printable
from retable.weights.architecture import filled_encoder, recognise
from retable.weights.encoder_files import HEADER, LoadedEncoder, encoder_from
from retable.weights.key_layouts import find_encoder
from retable.weights.structure import OPTIONS, parse_options, refuse_other_architectures, resolve
from retable.weights.weights_files import WeightsFile, file_digest, read_weights


def load_encoder(path_or_spec: str | os.PathLike[str]) -> LoadedEncoder:
    """Load (encoder, recipe, metadata), the encoder in evaluation mode on the CPU.

    ``path_or_spec`` is one of

    - a file of `save_encoder`, or the folder of a run, which holds ``encoder.safetensors``;
    - a weights file of another program, ``.safetensors`` or what ``torch.load(weights_only=True)``
      reads: torchvision, timm, official MoCo, SwAV, DINO, BYOL-style, lightly, solo-learn, VISSL,
      Detectron2. The ResNet is found below any prefix, its depth, width and stem from its shapes;
      heads and everything else are dropped and named in ``metadata["dropped"]``;
    - ``FILE#NAME``, where a file has several ResNets: ``checkpoint.pth#encoder_k``;
    - ``FILE?padding=2&pool=none``, where a file of another program does not tell what its network
      computes: `retable.weights.structure.OPTIONS`; ``metadata["assumed"]`` lists what was taken
      in default of it;
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
    try:
        if spec.startswith("torchvision:"):
            return _load_torchvision(spec)
        if spec.startswith("untrained:"):
            return _build_untrained(spec)
        return _load_file(spec)
    except UserError as error:
        # Names and texts of a file may hold control characters.
        raise UserError(printable(str(error))) from error


def _load_file(spec: str) -> LoadedEncoder:
    path, wanted, query = _split(spec)
    if path.is_dir():
        path = _file_in(path)
    named = parse_options(query, spec) if query is not None else {}
    file = read_weights(path)
    if HEADER in file.header and not wanted:
        if named:
            raise UserError(
                f"{path} names its own recipe, so `{spec}` must have no options, got "
                f"{', '.join(named)}. Leave them out."
            )
        return encoder_from(file, path)
    origin = {"source": path.name, "sha256": file_digest(path)}
    try:
        refuse_other_architectures(file.architecture, path.name)
        return _load_resnet(file, str(path), origin, wanted, named, path.stat().st_size)
    except UserError as error:
        raise UserError(_placed(str(path), error)) from error


def _split(spec: str) -> tuple[Path, str, str | None]:
    """Split FILE, FILE#NAME, FILE?OPTIONS or both in either order; a file's own name wins."""
    found: dict[str, str] = {}
    rest = spec
    while not _exists(rest):
        cut = max(rest.rfind("#"), rest.rfind("?"))
        if cut <= 0 or rest[cut] in found:
            break
        found[rest[cut]] = rest[cut + 1 :]
        rest = rest[:cut]
    return Path(rest), found.get("#", ""), found.get("?")


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"`{name[:80]}` must be the name of a weights file, got one that cannot be opened "
            f"({reason}). Pass another name."
        ) from error


def _file_in(folder: Path) -> Path:
    path = folder / "encoder.safetensors"
    if path.is_file():
        return path
    endings = (".safetensors", ".pth", ".pt", ".tar", ".ckpt", ".bin")
    others = sorted(each.name for each in folder.iterdir() if each.suffix in endings)
    choice = f"one of its weights files, {', '.join(others[:3])}" if others else "a weights file"
    raise UserError(
        f"The folder {folder} has no encoder.safetensors. Finish the run or name {choice}."
    )


def _placed(place: str, error: UserError) -> str:
    """Return an error's sentence with the file in front, once."""
    return str(error) if str(error).startswith(place) else f"{place}: {error}"


def _load_resnet(
    file: WeightsFile,
    place: str,
    origin: dict[str, Any],
    wanted: str = "",
    named: Mapping[str, str] | None = None,
    available: int | None = None,
) -> LoadedEncoder:
    """Load the ResNet among tensors; ``origin`` becomes part of its metadata."""
    found = find_encoder(file.tensors, wanted)
    structure = resolve(found, file.tensors, recognise(found.state), named or {})
    encoder = filled_encoder(structure.recipe, found.state, place, available)
    where = {"layout": found.layout, "prefix": found.prefix, "dropped": list(found.dropped)}
    about = {"assumed": structure.assumed} | (
        {"taken_for": structure.taken_for} if structure.taken_for else {}
    )
    ignored = {"ignored": list(file.ignored)} if file.ignored else {}
    return LoadedEncoder(encoder, structure.recipe, origin | where | about | ignored)


def _load_torchvision(spec: str) -> LoadedEncoder:
    from torchvision.models import get_model_weights

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
    named = {"stem": "imagenet", "downsampling": "torchvision"}  # torchvision's own network
    try:
        return _load_resnet(WeightsFile(dict(tensors), {}, {}), spec, origin, named=named)
    except UserError as error:
        raise UserError(_placed(spec, error)) from error


def _build_untrained(spec: str) -> LoadedEncoder:
    name, mark, query = spec.removeprefix("untrained:").partition("?")
    types: dict[str, tuple[str, Callable[[str], Any]]] = {
        **OPTIONS,
        "width": ("width", float),
        "seed": ("seed", int),
    }
    values: dict[str, Any] = {}
    for option, text in (parse_options(query, spec, types) if mark else {}).items():
        field, parse = types[option]
        try:
            values[field] = parse(text)
        except ValueError as error:
            raise UserError(
                f"{spec!r} is no untrained encoder ({error}). Use, for example, "
                "untrained:resnet50?width=2&stem=small&seed=0."
            ) from error
    seed = values.pop("seed", 0)
    recipe = ResNetRecipe(name, **values)
    metadata = {"source": "untrained", "seed": seed, "recipe": dataclasses.asdict(recipe)}
    encoder = recipe.build(derive_key(seed, "encoder"))
    return LoadedEncoder(encoder.eval(), recipe, metadata)
