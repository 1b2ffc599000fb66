"""The views of ReLICv2 (section 2.2, table 16)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from retable.errors import UserError
from retable.views import ViewRecipe

Parity = Literal["odd", "even"]

LARGE, SMALL = 224, 96
LARGE_AREA: dict[Parity, tuple[float, float]] = {"odd": (0.14, 1.0), "even": (0.08, 1.0)}
SMALL_AREA = (0.05, 0.14)

FOREGROUND = 0.05
"""Least share of an image that a mask must keep. The paper's number is not known."""


def views(
    large: int = 4,
    small: int = 2,
    *,
    size: int = LARGE,
    small_size: int = SMALL,
    mask: str = "",
    mask_probability: float = 0.0,
    mask_change: tuple[str, float] | None = None,
    least_foreground: float = FOREGROUND,
) -> tuple[ViewRecipe, ...]:
    """Return the recipes of L large and S small views, the large ones first.

    The first, third, ... of each size are odd, the others even; even ones are always blurred and
    never solarised.

    Args:
        large: L, number of large views.
        small: S, number of small views.
        size: side of large views in pixels.
        small_size: side of small views in pixels.
        mask: name of the layer that is positive in the foreground, "" for none.
        mask_probability: probability that a large view shows the foreground alone, on grey; 0.1
            in the paper. Small views always show all.
        mask_change: name and number of another mask in place of the layer's, see
            `relicv2.mask_changes`.
        least_foreground: share of an image that the foreground must have for that.

    Raises:
        UserError: there are no large views, or a probability or a change without a mask.
    """
    if mask_change is not None and not mask:
        raise UserError(
            f"`mask` must be a layer for the mask change {mask_change}, got none. Name the layer."
        )
    if large < 1 or small < 0:
        raise UserError(
            f"`large` must be at least 1 and `small` at least 0, got {large} and {small}. Use 4 "
            "and 2, the paper's numbers."
        )
    of_large = [
        replace(
            view(size, LARGE_AREA[parity], parity),
            mask=mask,
            mask_probability=mask_probability,
            mask_change=mask_change,
            least_foreground=least_foreground if mask else 0.0,
        )
        for parity in _parities(large)
    ]
    return (*of_large, *(view(small_size, SMALL_AREA, parity) for parity in _parities(small)))


def view(size: int, area: tuple[float, float], parity: Parity) -> ViewRecipe:
    """Return one view of ``size`` pixels and its share of the image's ``area``, "odd" or "even"."""
    odd = parity == "odd"
    return ViewRecipe(
        size,
        crop_scale=area,
        crop_sampling="deepmind",
        interpolation="bicubic",
        flip_probability=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_probability=0.8,
        jitter_terms="deepmind",
        gray_probability=0.2,
        blur_probability=0.1 if odd else 1.0,
        blur_sigma=(0.1, 2.0),
        blur_kernel=2 * int(size / 10 / 2) + 1,
        blur_padding="zeros",
        solarize_probability=0.2 if odd else 0.0,
    )


def _parities(count: int) -> list[Parity]:
    return ["even" if number % 2 else "odd" for number in range(count)]
