"""The foreground that a view shows alone: a data set's mask, or what a package makes of it.

Papers ask whether masks help because they follow objects, and train with other ones. A package
registers how it changes masks, and a recipe names the change (`ViewRecipe.mask_change`).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from torch import Tensor

from retable.errors import UserError

MaskChange = Callable[[Tensor, Tensor, float], Tensor]
"""Changes masks (B, H, W) bool of images at positions (B,) int64 in their data set.

The third argument is the recipe's number. The result has the shape of the masks; draws may depend
on the positions alone.
"""

ENTRY_POINTS = "retable.mask_changes"
"""Group of the entry points by which installed packages declare changes under their names."""

_changes: dict[str, MaskChange] = {}


def register_mask_change(name: str, change: MaskChange) -> None:
    """Make a change available to recipes under a name; one that is registered again replaces it."""
    _changes[name] = change


def cut_foreground(
    layer: Tensor,
    indices: Tensor,
    change: tuple[str, float] | None,
    least: float,
    cut: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the foreground of B views, (B, 1, S, S) bool.

    Args:
        layer: (B, 1, H, W), positive in the foreground.
        indices: (B,) int64 positions of the images in the data set.
        change: name and number of a change, None for none.
        least: least share of foreground in ``layer``; an image with less, or with none, is
            foreground everywhere, so that no background is replaced.
        cut: cuts (B, 1, H, W) as the views are cut.

    Raises:
        UserError: the layer has several channels, or the change is not known.
    """
    if layer.shape[1] != 1:
        raise UserError(
            f"`mask` of a view must be a layer of one channel, got {layer.shape[1]}. Name a layer "
            "of masks."
        )
    foreground = layer > 0
    share = foreground.float().mean(dim=(1, 2, 3))
    too_little = (share < least) | (share == 0)
    if change is not None:
        name, number = change
        indices = indices.to(layer.device)
        foreground = _change(name)(foreground[:, 0], indices, number)[:, None]
    return cut(foreground) | too_little[:, None, None, None]


def _change(name: str) -> MaskChange:
    if name not in _changes:
        for entry in entry_points(group=ENTRY_POINTS, name=name):
            register_mask_change(name, entry.load())
    if name not in _changes:
        known = sorted(_changes.keys() | entry_points(group=ENTRY_POINTS).names)
        raise UserError(
            f"`mask_change` must name a registered change, {', '.join(known) or 'none'}, got "
            f"{name!r}. Install the package that has it."
        )
    return _changes[name]


def check_mask_change(change: tuple[str, float] | None) -> None:
    """Raise a UserError unless a change is registered or declared by an installed package."""
    if change is not None:
        _change(change[0])
