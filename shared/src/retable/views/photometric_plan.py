"""Order the photometric steps of a batch so that they become one straight program.

Brightness, contrast and saturation are all clamp(f x + (1 - f) g), with g = 0, the mean grey or
the grey image; here they are called blends, and one pass with per-sample coefficients does any of
them. Hue is the odd one out. It is applied to all jittered samples at once, between up to three
blends before it and the rest after it. Sorted by the number of blends before the hue, the samples
that take part in a pass are neighbours, and the pass works on a slice.

In DeepMind's terms the four operations do not commute with each other's cuts to [0, 1] and have
nothing in common: they come in four rounds, each operation on the samples whose turn it is.

Whatever RandAugment draws, each of its layers is eight steps (`rand_augment.layer_strengths`), each
on the samples that drew it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from retable.views.rand_augment import layer_strengths
from retable.views.recipe import ViewRecipe
from retable.views.sampling import ViewParameters, to_device

BLENDS = 3
_CONTRAST, _SATURATION, _HUE = 1, 2, 3  # as in ViewParameters.jitter_order
_NEUTRAL = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
"""Operations in that order, and what changes nothing in DeepMind's terms."""


@dataclass(frozen=True)
class SelectedRows:
    """The samples that a step is applied to, and how strongly.

    ``rows`` are (n,) int64, or None for all B, when a strength of 0 must mean no change.
    """

    rows: Tensor | None
    strength: Tensor

    def __len__(self) -> int:
        return len(self.strength)


@dataclass(frozen=True)
class PhotometricPlan:
    """The draws of B views in the form in which tensors are computed with.

    Attributes:
        order: (B,) int64, the samples in the order in which they are processed; None as they come,
            where shapes are fixed or no sample can be jittered.
        restore: (B,) int64, the inverse of ``order``.
        jittered: number of jittered samples, which come first.
        before: of these, how many have a first, second, third blend before the hue; the others
            have it after the hue.
        blends: (2, 3, 3, B) float32: before or after the hue; first, second or third blend; its
            coefficients of the image, of the grey image and of the mean grey. (1, 0, 0) where a
            sample does not take part.
        shift: (B,) float32, hue shift in sixths of a turn.
        brightness: (B,) float32, added as TensorFlow does.
        saturation: (B,) float32, TensorFlow's factor.
        background: the grey level of samples whose background is replaced; -1 for none.
        rounds: of the jitter in DeepMind's terms: in each of four rounds the samples whose turn it
            is to have each operation; empty in torchvision's terms.
        gray: strength 1 (or 0), like ``solarize``; of ``blur`` it is sigma.
        layers: steps of each layer of RandAugment by name.
    """

    order: Tensor | None
    restore: Tensor | None
    jittered: int
    before: tuple[int, ...]
    blends: Tensor
    shift: Tensor
    brightness: Tensor
    saturation: Tensor
    background: SelectedRows
    rounds: tuple[dict[str, SelectedRows], ...]
    gray: SelectedRows
    blur: SelectedRows
    solarize: SelectedRows
    layers: tuple[dict[str, SelectedRows], ...]

    def to(self, device: torch.device) -> PhotometricPlan:
        """Copy to a device without waiting for it."""
        if device.type == "cpu":
            return self
        moved = {field.name: _moved(getattr(self, field.name), device) for field in fields(self)}
        return replace(self, **moved)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, SelectedRows):
        return SelectedRows(_moved(value.rows, device), _moved(value.strength, device))
    if isinstance(value, dict):
        return {name: _moved(selected, device) for name, selected in value.items()}
    if isinstance(value, tuple):
        return tuple(_moved(part, device) for part in value)
    return to_device(value, device) if isinstance(value, Tensor) else value


def photometric_plan(
    parameters: ViewParameters, recipe: ViewRecipe, *, fixed_shapes: bool = False
) -> PhotometricPlan:
    """Return the schedule of B views, on the CPU.

    With ``fixed_shapes`` every step covers all samples, neutral where it does not apply, so that
    no shape depends on what was drawn and a compiled program is compiled once.
    """
    count = len(parameters)
    in_rounds = recipe.jitter_terms == "deepmind"
    takes_part = parameters.jitter & (max(recipe.jitter) > 0)
    jitter = takes_part & (not in_rounds)
    if recipe.jitter[_HUE] > 0:
        hue_place = (parameters.jitter_order == _HUE).byte().argmax(dim=1)
    else:  # then all blends come "before" and the hue is skipped
        hue_place = torch.full((count,), BLENDS)
    before = jitter[:, None] & (torch.arange(BLENDS) < hue_place[:, None])
    after = jitter[:, None] & ~before
    blends = _coefficients(parameters, torch.stack([before, after]))
    shift = 6 * parameters.jitter_factors[:, _HUE] * jitter
    order: Tensor | None = None
    chosen: Tensor | slice = slice(None)
    blended = max(recipe.jitter) > 0 and not in_rounds
    jittered, counts = (count if blended else 0), [count] * BLENDS
    if jittered and not fixed_shapes:
        chosen = order = torch.where(jitter, BLENDS - hue_place, BLENDS + 1).argsort(stable=True)
        jittered, *counts = torch.cat([jitter[:, None], before], dim=1).sum(dim=0).tolist()

    def selected(applies: Tensor, strength: Tensor) -> SelectedRows:
        """Take the samples that a step applies to, or all, whose strength then must be neutral."""
        if fixed_shapes:
            return SelectedRows(None, strength)
        rows = applies[chosen].nonzero()[:, 0]
        return SelectedRows(rows, strength[chosen][rows])

    def turn(number: int) -> dict[str, SelectedRows]:
        """Return the samples of a round by operation."""
        operation = parameters.jitter_order[:, number]
        found = {}
        for place, (name, neutral) in enumerate(_NEUTRAL.items()):
            applies = takes_part & (operation == place)
            values = parameters.jitter_factors[:, place]
            found[name] = selected(applies, torch.where(applies, values, neutral))
        return found

    columns = (parameters.operations.T, parameters.arguments.T, parameters.bicubic.T)
    layers = (layer_strengths(*layer, size=recipe.size) for layer in zip(*columns, strict=True))
    return PhotometricPlan(
        order=order,
        restore=None if order is None else order.argsort(),
        jittered=jittered,
        before=tuple(counts),
        blends=blends[..., chosen],
        shift=shift[chosen],
        brightness=parameters.brightness_shift[chosen],
        saturation=parameters.saturation[chosen],
        background=selected(
            parameters.masked, torch.where(parameters.masked, parameters.level, -1.0)
        ),
        rounds=tuple(map(turn, range(4))) if in_rounds else (),
        gray=selected(parameters.gray, parameters.gray.float()),
        blur=selected(parameters.blur_sigma > 0, parameters.blur_sigma),
        solarize=selected(parameters.solarize, parameters.solarize.float()),
        layers=tuple({name: selected(*drawn) for name, drawn in layer.items()} for layer in layers),
    )


def _coefficients(parameters: ViewParameters, takes_part: Tensor) -> Tensor:
    """Return the blends (2, 3, 3, B) for ``takes_part`` (2, B, 3)."""
    operations = parameters.jitter_order
    operations = operations[operations != _HUE].view(-1, BLENDS)
    factors = torch.where(takes_part, parameters.jitter_factors.gather(1, operations), 1.0)
    rest = 1 - factors
    coefficients = [factors, rest * (operations == _SATURATION), rest * (operations == _CONTRAST)]
    return torch.stack(coefficients).permute(1, 3, 0, 2).contiguous()
