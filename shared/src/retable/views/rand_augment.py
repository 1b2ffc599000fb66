"""RandAugment: how many operations, which ones, how strong (Cubuk et al., 2020).

A view passes through ``n`` layers. A layer picks one of 15 operations, each as likely, and carries
it out with probability 1/2; the magnitude is normal about the recipe's, cut to [0, 10].

Set of operations, formulas, the probability of 1/2, the normal magnitude and the
random filter of the four geometric ones (bilinear or bicubic) are those of ``rand-m10-n2-mstd0.5``
in timm's ``auto_augment.py``, which InfoMin's code holds a copy of; both were read. The paper has
the idea of n and one magnitude; its own set (figure 2 there, unverified) has an identity, no
Invert and no SolarizeAdd.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retable.random import derive_key, normal, uniform


class _Argument(NamedTuple):
    """An operation's argument, scale * magnitude / 10 + offset, rounded down or of a fair sign."""

    scale: float = 0.0
    offset: float = 0.0
    rounded: bool = False
    signed: bool = False


_ENHANCE = _Argument(1.8, 0.1)
_SHEAR = _Argument(0.3, signed=True)
_TRANSLATE = _Argument(0.45, signed=True)

_ARGUMENTS = {
    "AutoContrast": _Argument(),  # each channel stretched to [0, 255]
    "Equalize": _Argument(),  # each channel's histogram made flat
    "Invert": _Argument(),  # v -> 255 - v
    "Rotate": _Argument(30.0, signed=True),  # degrees, counter-clockwise about the centre
    "Posterize": _Argument(4.0, rounded=True),  # bits that are kept; 0 would leave black
    "Solarize": _Argument(256.0, rounded=True),  # levels from here on are inverted; 256: none
    "SolarizeAdd": _Argument(110.0, rounded=True),  # added to levels below 128
    "Color": _ENHANCE,  # blend with the grey image; 1 changes nothing
    "Contrast": _ENHANCE,  # blend with the mean grey
    "Brightness": _ENHANCE,  # blend with black
    "Sharpness": _ENHANCE,  # blend with the smoothed image
    "ShearX": _SHEAR,  # share of the other coordinate, from the top left corner
    "ShearY": _SHEAR,
    "TranslateXRel": _TRANSLATE,  # share of the view's side
    "TranslateYRel": _TRANSLATE,
}

OPERATIONS = tuple(_ARGUMENTS)
SKIPPED = -1
_PROBABILITY = 0.5

# Counters of one layer of one image.
_CHOICE, _SKIP, _MAGNITUDE, _SIGN, _FILTER = range(5)
_SLOTS = 5


def draw_operations(
    setting: tuple[int, float, float] | None, rng_key: int, indices: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the operations of B images: a function of key and index, whatever the batch.

    ``setting`` is `ViewRecipe.rand_augment` with n layers; None: n is 0. Returns operations (B, n)
    int64, positions in `OPERATIONS` or `SKIPPED`; their arguments (B, n) float32; and bicubic
    (B, n) bool, the filter of geometric operations, else bilinear.
    """
    layers, mean, deviation = setting or (0, 0.0, 0.0)
    places = (indices[:, None] * layers + torch.arange(layers)) * _SLOTS
    rng_key = derive_key(rng_key, "rand_augment")
    draws = uniform(rng_key, places[..., None] + torch.arange(_SLOTS))
    operations = (draws[..., _CHOICE] * len(OPERATIONS)).long()
    magnitudes = (mean + deviation * normal(rng_key, places + _MAGNITUDE)).clamp_(0, 10)
    arguments = operation_arguments(operations, magnitudes, draws[..., _SIGN] < 0.5)
    operations = operations.masked_fill(draws[..., _SKIP] >= _PROBABILITY, SKIPPED)
    return operations, arguments, draws[..., _FILTER] < 0.5


def operation_arguments(operations: Tensor, magnitudes: Tensor, negative: Tensor) -> Tensor:
    """Return the arguments of operations, positions in `OPERATIONS`, at magnitudes in [0, 10].

    All have one shape; ``negative`` (bool) is the sign where an operation has one.
    """
    scale, offset, rounded, signed = torch.tensor(list(_ARGUMENTS.values())).T[:, operations]
    arguments = scale * (magnitudes / 10) + offset
    arguments = torch.where(rounded > 0, arguments.floor(), arguments)
    return torch.where((signed > 0) & negative, -arguments, arguments)


Strengths = dict[str, tuple[Tensor, Tensor]]

_LEVELS = torch.arange(256.0)
_UNMOVED = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64)


def layer_strengths(operations: Tensor, arguments: Tensor, bicubic: Tensor, size: int) -> Strengths:
    """Translate one layer into the few steps by which pixels are changed.

    ``operations``, ``arguments`` and ``bicubic`` (B,) are a column of what `draw_operations`
    returns; ``size`` is the side of the views in pixels. Returns by the step's name which samples
    take part, (B,) bool, and the strength for all B, which changes nothing where a sample does not
    take part. Strengths are ``look_up``: tables (B, 256); ``autocontrast``, ``equalize``: 1 or 0,
    (B,); ``contrast``, ``color``, ``sharpness``: factors (B,); ``bilinear``, ``bicubic``: affine
    matrices (B, 6) in float64.
    """
    tables = _tables(operations, arguments)
    strengths = {"look_up": ((tables != _LEVELS).any(dim=1), tables)}
    for name in ("AutoContrast", "Equalize"):
        chosen = _is(operations, name)
        strengths[name.lower()] = (chosen, chosen.float())
    for name in ("Contrast", "Color", "Sharpness"):
        chosen = _is(operations, name)
        strengths[name.lower()] = (chosen, torch.where(chosen, arguments, 1.0))
    matrices = _matrices(operations, arguments, size)
    moved = (matrices != _UNMOVED).any(dim=1)
    for name, chosen in (("bilinear", moved & ~bicubic), ("bicubic", moved & bicubic)):
        strengths[name] = (chosen, torch.where(chosen[:, None], matrices, _UNMOVED))
    return strengths


def _is(operations: Tensor, name: str) -> Tensor:
    return operations == OPERATIONS.index(name)


def _tables(operations: Tensor, arguments: Tensor) -> Tensor:
    """Return what the 256 levels become, (B, 256), where the image has no say in it."""
    value = arguments[:, None]
    step = torch.exp2(8 - value)  # levels that share their upper bits
    made = {
        "Invert": 255 - _LEVELS,
        "Posterize": (_LEVELS / step).floor() * step,
        "Solarize": torch.where(value > _LEVELS, _LEVELS, 255 - _LEVELS),
        "SolarizeAdd": torch.where(_LEVELS < 128, (_LEVELS + value).clamp(max=255), _LEVELS),
        "Brightness": (_LEVELS * value).floor().clamp(0, 255),
    }
    tables = _LEVELS.expand(len(operations), -1)
    for name, table in made.items():
        tables = torch.where(_is(operations, name)[:, None], table, tables)
    return tables


def _matrices(operations: Tensor, arguments: Tensor, size: int) -> Tensor:
    """Return where pixels come from, affine matrices (B, 6) for `levels.affine`.

    A shear's fixed point is the top left corner, as in timm, not the centre, as in torchvision.
    """
    value = arguments.double()
    one, zero = torch.ones_like(value), torch.zeros_like(value)
    cosine, sine = value.deg2rad().cos(), value.deg2rad().sin()
    middle = size / 2
    right, down = middle * (1 - cosine + sine), middle * (1 - cosine - sine)
    made = {
        "Rotate": (cosine, -sine, right, sine, cosine, down),
        "ShearX": (one, value, zero, zero, one, zero),
        "ShearY": (one, zero, zero, value, one, zero),
        "TranslateXRel": (one, zero, value * size, zero, one, zero),
        "TranslateYRel": (one, zero, zero, zero, one, value * size),
    }
    matrices = _UNMOVED.expand(len(operations), -1)
    for name, entries in made.items():
        chosen = _is(operations, name)[:, None]
        matrices = torch.where(chosen, torch.stack(entries, dim=1), matrices)
    return matrices
