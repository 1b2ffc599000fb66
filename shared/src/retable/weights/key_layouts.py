"""Find a ResNet in a file and translate its tensors' names to torchvision's.

A layout is the naming scheme of a file:

- ``torchvision``: ``conv1.weight``, ``layer1.0.bn1.bias``, ``layer1.0.downsample.0.weight``; also
  timm's names, and after a prefix those of MoCo, SwAV, DINO, solo-learn and VISSL;
- ``sequential``: ``0.weight``, ``4.0.bn1.bias``, of ``nn.Sequential(*resnet.children())`` as in
  lightly's examples;
- ``detectron2``: ``stem.conv1.weight``, ``res2.0.conv1.norm.bias``, ``res2.0.shortcut.weight``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from retable.errors import UserError
from retable.weights.values import is_plain

# Parts of a ResNet under torchvision's names, and names that only further parts of one can have.
_TRUNK = re.compile(r"(conv1|bn1|layer[1-4])\.")
_TRUNK_LIKE = re.compile(r"(conv|bn|norm|layer|res)\d*\.")

# Modules that wrap others, and names that programs give to a wrapped network.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_INNER = {"net", "model", "encoder", "encoder_q", "backbone", "inner", "wrapped"}
_TRUNK_START = re.compile(r"conv1|bn1|layer[1-4]|stem|res[2-5]")
_LEAF = re.compile(r"weight|bias|running_(mean|var)|num_batches_tracked")

# Momentum copies, and the student of a distillation, whose teacher is what its authors evaluate.
_COPY = re.compile(r"(^|_)(k|key|momentum|target|ema|student)(_|$)")


class FoundEncoder(NamedTuple):
    """A ResNet inside a file, its ``state`` under torchvision's names.

        ``prefix`` is the start of its names in the file, such as ``state_dict.module.encoder_q.``,
    ``layout`` is ``torchvision``, ``sequential`` or ``detectron2``, and ``dropped`` are the file's
    other modules, each by its shortest unambiguous name. ``first_stage`` is the number of the child
    that is layer1, None unless the layout is ``sequential``.
    """

    prefix: str
    layout: str
    state: dict[str, Tensor]
    dropped: tuple[str, ...]
    first_stage: int | None = None


class _Place(NamedTuple):
    prefix: str
    layout: str


def find_encoder(tensors: Mapping[str, Tensor], wanted: str = "") -> FoundEncoder:
    """Find the ResNet that a file's author would evaluate.

    Momentum copies (``encoder_k``, ``backbone_momentum``, ``target_encoder``, ...) and the student
    of a distillation are ignored if there is another ResNet; of equal ones, the one with the
    shortest prefix is used. ``wanted`` selects by name instead: ``encoder_k`` or
    ``teacher.backbone``. What wraps parts of the ResNet (``torch.compile``, data parallelism) is
    removed from names.
    """
    tensors = _unwrapped(tensors)
    places = _places(tensors)
    if not places:
        raise UserError(_nothing_found(tensors))
    chosen = _choose(tensors, places, wanted)
    trunk, rest = _split(tensors, chosen)
    _refuse_foreign_parts(trunk, rest, chosen, places)
    kept = {chosen.prefix + name for name in trunk}
    others = {_module_beside(name, chosen.prefix) for name in tensors if name not in kept}
    state = {to_torchvision(name, chosen.layout, trunk): value for name, value in trunk.items()}
    first_stage = _first_stage(trunk) if chosen.layout == "sequential" else None
    return FoundEncoder(chosen.prefix, chosen.layout, state, tuple(sorted(others)), first_stage)


def _unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Remove wrappers inside a trunk from names, unless two names would meet."""
    renamed = {_without_wrappers(name): tensor for name, tensor in tensors.items()}
    return renamed if len(renamed) == len(tensors) else tensors


def _without_wrappers(name: str) -> str:
    """Remove the wrappers behind the first part of a name that belongs to a ResNet.

    Behind a number, which can also belong to a prefix, a network's name is a wrapper only in front
    of a block's number or of a tensor: ``4.net.0.conv1.weight``.
    """
    parts = name.split(".")
    kept: list[str] = []
    inside = numbered = False
    for part, following in zip(parts, (*parts[1:], ""), strict=True):
        wraps = part in _WRAPPERS and (inside or numbered)
        inner = inside or (numbered and (following.isdecimal() or _LEAF.fullmatch(following)))
        if not (wraps or (part in _INNER and inner)):
            kept.append(part)
        inside = inside or _TRUNK_START.fullmatch(part) is not None
        numbered = numbered or part.isdecimal()
    return ".".join(kept)


def _nothing_found(tensors: Mapping[str, Tensor]) -> str:
    if any(re.search(r"(^|\.)conv1\.0\.weight$", name) for name in tensors):
        return (
            "The weights must be of a ResNet whose stem is one convolution, got a deep stem "
            "(conv1.0.weight, as in ResNet-D). Use a network with conv1.weight."
        )
    some = ", ".join(list(tensors)[:3]) or "none"
    return (
        f"No ResNet found among {len(tensors)} tensors ({some}, ...). Use names such as "
        "conv1.weight and layer1.0.conv1.weight, after any prefix."
    )


def _first_stage(names: Mapping[str, object]) -> int:
    return next(i for i in (2, 3, 4) if f"{i}.0.conv1.weight" in names)


def _places(tensors: Mapping[str, Tensor]) -> list[_Place]:
    """List every prefix below which a ResNet's stem and first block are, the shortest first."""
    found = []
    for name, tensor in tensors.items():
        if tensor.dim() != 4:
            continue
        for layout, stem, block in (
            ("torchvision", "conv1.weight", r"layer1\.0\.conv1\.weight"),
            ("detectron2", "stem.conv1.weight", r"res2\.0\.conv1\.weight"),
            ("sequential", "0.weight", r"[2-4]\.0\.conv1\.weight"),
        ):
            prefix = name.removesuffix(stem)
            if prefix == name or (prefix and not prefix.endswith(".")):
                continue
            pattern = re.compile(re.escape(prefix) + block)
            if any(pattern.fullmatch(other) for other in tensors):
                found.append(_Place(prefix, layout))
    return sorted(found, key=lambda place: (len(place.prefix), place.prefix))


def _choose(tensors: Mapping[str, Tensor], places: list[_Place], wanted: str) -> _Place:
    if wanted:
        inside = "." + wanted.strip(".") + "."
        remaining = [place for place in places if inside in "." + place.prefix]
    else:
        parts = {place: place.prefix.split(".") for place in places}
        originals = [place for place in places if not any(map(_COPY.search, parts[place]))]
        remaining = originals or places
    distinct: list[_Place] = []
    for place in remaining:
        if not any(_equal(tensors, place, other) for other in distinct):
            distinct.append(place)
    if len(distinct) == 1:
        return distinct[0]
    names = ", ".join(place.prefix.rstrip(".") or "(no prefix)" for place in distinct or places)
    if not distinct:
        raise UserError(f"The file has no ResNet under the name {wanted!r}. Choose from {names}.")
    raise UserError(f"The file has {len(distinct)} ResNets. Name one as FILE#NAME: {names}.")


def _equal(tensors: Mapping[str, Tensor], a: _Place, b: _Place) -> bool:
    """Whether two places hold the same trunk, as of one module registered under two names."""
    left, right = _split(tensors, a)[0], _split(tensors, b)[0]
    return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)


def _same(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    comparable = is_plain(a) and is_plain(b) and a.dtype == b.dtype and a.shape == b.shape
    return comparable and a.equal(b)


def _split(
    tensors: Mapping[str, Tensor], place: _Place
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split the tensors below a prefix into the ResNet and the rest, and remove the prefix."""
    below = {
        name.removeprefix(place.prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(place.prefix)
    }
    trunk = {
        name: tensor
        for name, tensor in below.items()
        if _TRUNK.match(to_torchvision(name, place.layout, below))
    }
    return trunk, {name: tensor for name, tensor in below.items() if name not in trunk}


def _refuse_foreign_parts(
    trunk: Mapping[str, Tensor], rest: Mapping[str, Tensor], chosen: _Place, places: list[_Place]
) -> None:
    """Raise a UserError for unknown parts of the trunk; heads have no convolution beyond 1x1."""
    elsewhere = tuple(
        place.prefix.removeprefix(chosen.prefix)
        for place in places
        if place.prefix != chosen.prefix and place.prefix.startswith(chosen.prefix)
    )
    foreign = [
        name
        for name, tensor in rest.items()
        if not name.startswith(elsewhere)
        and (_TRUNK_LIKE.match(name) or (tensor.dim() == 4 and max(tensor.shape[2:]) > 1))
    ]
    if foreign:
        raise UserError(
            "The file's network has parts that torchvision's ResNets do not have "
            f"({', '.join(foreign[:3])}). Use one with conv1, bn1, layer1 to layer4 and heads."
        )


def _module_beside(name: str, prefix: str) -> str:
    """Shorten a name to the first part that it does not share with ``prefix``."""
    parts, shared = name.split("."), prefix.split(".")
    depth = 0
    while depth < min(len(parts), len(shared)) - 1 and parts[depth] == shared[depth]:
        depth += 1
    return ".".join(parts[: depth + 1])


def to_torchvision(name: str, layout: str, siblings: Mapping[str, object] | None = None) -> str:
    """Translate one tensor's name, without prefix, from ``layout`` to torchvision's.

    ``siblings`` are the other names of a ``sequential`` network, which show at which index its
    stages begin. Names that do not belong to a ResNet are returned unchanged.
    """
    if layout == "detectron2":
        name = re.sub(r"^stem\.", "", name)
        name = re.sub(r"^res([2-5])\.", lambda stage: f"layer{int(stage[1]) - 1}.", name)
        name = re.sub(r"\bconv(\d)\.norm\.", r"bn\1.", name)
        name = name.replace("shortcut.norm.", "downsample.1.")
        return re.sub(r"\bshortcut\.(?!\d)", "downsample.0.", name)
    if layout == "sequential":
        first = _first_stage(siblings or {})
        stages = {str(first + i): f"layer{1 + i}" for i in range(4)} | {"0": "conv1", "1": "bn1"}
        start, _, end = name.partition(".")
        name = f"{stages.get(start, start)}.{end}"
    return re.sub(r"\bshortcut\.(?=[01]\.)", "downsample.", name)  # lightly's own ResNet


def to_detectron2(name: str) -> str:
    """Translate one tensor's name from torchvision's to Detectron2's.

    Source: ``detection/convert-pretrain-to-detectron2.py`` of the MoCo repository.
    """
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"^layer([1-4])\.", lambda stage: f"res{int(stage[1]) + 1}.", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    name = name.replace("downsample.0.", "shortcut.")
    return name.replace("downsample.1.", "shortcut.norm.")
