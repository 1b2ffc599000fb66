"""What weights do not show of a ResNet: read from the file, named by the user, or assumed.

Strides, paddings and poolings have no tensors. A file of another program tells some of them by its
names; the others are assumed as in torchvision's networks, reported, and can be named in the
query of ``FILE?padding=2``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from torch import Tensor

from retable.encoders import ResNetRecipe
from retable.encoders.resnet import STEMS
from retable.errors import UserError
from retable.text import printable
from retable.weights.key_layouts import FoundEncoder


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join(words))
        return text

    return parse


def _yes_or_no(text: str) -> bool:
    return _one_of("yes", "no")(text) == "yes"


#: What a query can name: the field of `ResNetRecipe`, and how its value is read.
OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "stem": ("stem", _one_of(*STEMS)),
    "stride": ("stem_stride", int),
    "padding": ("stem_padding", int),
    "pool": ("stem_pool", _one_of("max", "none")),
    "relu": ("stem_relu", _yes_or_no),
    "downsampling": ("downsampling", _one_of("torchvision", "caffe")),
    "norm": ("norm", _one_of("batch", "group")),
}

# Networks of timm and others with the shapes of plain ones.
_ANTI_ALIASED = re.compile(r"(res|resne[xt]+)[a-z]*(blur|aa)\d|anti.?alias|blurpool", re.IGNORECASE)

_MEANINGS = {
    "downsampling": {
        "torchvision": "strides as in torchvision's, without blur or dilation",
        "caffe": "strides in the 1x1 convolutions, without blur or dilation",
    }
}


class Structure(NamedTuple):
    """A recipe and where it comes from.

    Attributes:
        recipe: the encoder.
        assumed: options that neither the file nor the user tells, with the values taken.
        taken_for: the program whose convention was taken, if there is one.
    """

    recipe: ResNetRecipe
    assumed: dict[str, Any]
    taken_for: str = ""


def parse_options(query: str, spec: str, known: Mapping[str, Any] = OPTIONS) -> dict[str, str]:
    """Return the options of a name's query as text, each one of ``known``."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError as error:
        raise UserError(
            f"`{printable(spec)}` must have options such as padding=2&pool=none after the question "
            f"mark, got {printable(query)!r}. Choose from {', '.join(known)}."
        ) from error
    for name, _ in pairs:
        if name not in known or [key for key, _ in pairs].count(name) > 1:
            raise UserError(
                f"Each option of `{printable(spec)}` must be one of {', '.join(known)}, given "
                f"once, got {printable(name)!r}. Use, for example, FILE?padding=2&pool=none."
            )
    return dict(pairs)


def resolve(
    found: FoundEncoder, tensors: Mapping[str, Tensor], base: ResNetRecipe, named: Mapping[str, str]
) -> Structure:
    """Complete the recipe that shapes show by the file's names, the user's and torchvision's."""
    values = {name: _value(name, text) for name, text in named.items()}
    stem = values.pop("stem", None)
    if stem not in (None, base.stem):
        kernel = STEMS[base.stem].kernel
        raise UserError(
            f"`stem` must be {base.stem} for a first convolution of {kernel}x{kernel}, got "
            f"{stem!r}. Leave it out, or name stride, padding and pool."
        )
    usual = STEMS[base.stem]
    defaults: dict[str, Any] = {
        "stride": usual.stride,
        "padding": usual.kernel // 2,
        "pool": usual.pool,
        "relu": True,
        "downsampling": "torchvision",
        "norm": base.norm,
    }
    taken_for, convention = _convention(found, tensors, base)
    told: dict[str, Any] = {"relu": True, "norm": base.norm}
    if stem is not None:
        told |= {name: defaults[name] for name in ("stride", "padding", "pool")}
    told |= _told_by_names(found) | values
    chosen = defaults | convention | told
    assumed = {name: value for name, value in chosen.items() if name not in told}
    if not convention.keys() & assumed.keys():
        taken_for = ""
    return Structure(_recipe(base, chosen, defaults), assumed, taken_for)


def _recipe(
    base: ResNetRecipe, chosen: Mapping[str, Any], defaults: Mapping[str, Any]
) -> ResNetRecipe:
    """Set the fields that differ from the defaults, so that equal networks have equal recipes."""
    fields = {OPTIONS[name][0]: value for name, value in chosen.items() if value != defaults[name]}
    return dataclasses.replace(base, **fields)


def _value(name: str, text: str) -> Any:
    try:
        return OPTIONS[name][1](text)
    except ValueError as error:
        expected = "a whole number" if OPTIONS[name][1] is int else str(error)
        raise UserError(f"`{name}` must be {expected}, got {printable(text)!r}.") from error


def _told_by_names(found: FoundEncoder) -> dict[str, Any]:
    """Return the options that the names of a file's tensors tell.

    The children of an ``nn.Sequential`` are what it computes: layer1 is number 4 behind
    convolution, norm, ReLU and pooling (or a stand-in), 3 without pooling, 2 without ReLU too.
    Detectron2's networks have one stem.
    """
    if found.layout == "detectron2":
        return {"stride": 2, "padding": 3, "pool": "max"}
    if found.first_stage == 3:
        return {"pool": "none"}
    if found.first_stage == 2:
        return {"pool": "none", "relu": False}
    return {}


def _convention(
    found: FoundEncoder, tensors: Mapping[str, Tensor], base: ResNetRecipe
) -> tuple[str, dict[str, Any]]:
    """Return the program that a file seems to be of, and its stem, where it is not torchvision's.

    solo-learn (``solo/methods/base.py``) trains a classifier beside ``backbone``, in former
    versions ``encoder``, and pads its 3x3 stem by 2.
    """
    outer, _, last = found.prefix.rstrip(".").rpartition(".")
    beside = f"{outer}.classifier.weight" if outer else "classifier.weight"
    names = ("backbone", "momentum_backbone", "encoder", "momentum_encoder")
    if base.stem == "small" and last in names and beside in tensors:
        return "solo-learn", {"padding": 2}
    return "", {}


def refuse_other_architectures(names: Mapping[str, str], file_name: str) -> None:
    """Raise a UserError if the file's or its architecture's name is that of another network."""
    for where, name in (*names.items(), ("the file's name", file_name)):
        if _ANTI_ALIASED.search(name):
            raise UserError(
                "The network must sample down as torchvision's ResNets do, got an anti-aliased one "
                f"({printable(where)}: {printable(name)}). Use the plain network's weights."
            )


def assumption(metadata: Mapping[str, Any]) -> str:
    """Say what was assumed of an encoder, from its metadata; "" if nothing was."""
    assumed = metadata.get("assumed")
    if not isinstance(assumed, Mapping) or not assumed:
        return ""
    parts = [
        f"{name}={value}" + (f" ({meaning})" if (meaning := _meaning(name, value)) else "")
        for name, value in assumed.items()
    ]
    taken = metadata.get("taken_for")
    like = f", as in files of {taken}" if taken else ""
    return printable(
        f"assumed, since the file does not tell{like}: {', '.join(parts)}; name others as "
        "FILE?padding=2"
    )


def _meaning(name: str, value: object) -> str:
    return _MEANINGS.get(name, {}).get(str(value), "")
