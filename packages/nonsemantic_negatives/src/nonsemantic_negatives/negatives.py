"""Recipes of non-semantic negatives: what images a method contrasts its queries with.

A recipe makes images of one view of a batch; the method embeds them. Any frozen dataclass with the
methods of `NegativeRecipe` is one, for example one that masks the salient part of a view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nonsemantic_negatives.patches import check_range, patch_negatives
from retable.data.batch import Batch
from retable.domains import Name, Pixels, Small
from retable.errors import UserError
from retable.random import derive_key
from retable.settings import validate_fields


class NegativeRecipe(Protocol):
    """A frozen dataclass of plain fields that makes the negatives of each query."""

    @property
    def count(self) -> int:
        """Number n of negatives of each query."""

    def images(self, batch: Batch, view: int) -> Tensor:
        """Return the negatives (n, B_r, 3, S, S) of the view with this number, in views' values.

        Draws depend on ``batch.rng_key`` and ``batch.positions`` alone, so that they do not depend
        on the number of processes.
        """


@dataclass(frozen=True)
class PatchNegatives:
    """Patches of the view itself in random places; the defaults are those of the paper at 224 px.

    Attributes:
        low: smallest side of a patch in pixels of the view.
        high: largest side.
        mirror: flip patches left to right at random (table 6).
        upside_down: flip patches top to bottom at random (table 6).
        turn: turn patches by quarter turns at random (table 6).
        count: negatives of each query; 1 in the paper.
    """

    low: Pixels = 16
    high: Pixels = 72
    mirror: bool = False
    upside_down: bool = False
    turn: bool = False
    count: Small = 1

    def __post_init__(self) -> None:
        validate_fields(self)
        check_range(self.low, self.high, self.high)

    @torch.no_grad()
    def images(self, batch: Batch, view: int) -> Tensor:
        """Return the negatives (n, B_r, 3, S, S) of a view."""
        return torch.stack(
            [
                patch_negatives(
                    batch.views[view],
                    derive_key(batch.rng_key, "negatives", view, number),
                    batch.positions,
                    low=self.low,
                    high=self.high,
                    mirror=self.mirror,
                    upside_down=self.upside_down,
                    turn=self.turn,
                )
                for number in range(self.count)
            ]
        )


@dataclass(frozen=True)
class TextureNegatives:
    """The image's texture twin, a layer of the data set that is cut and coloured like the view.

    Attributes:
        layer: name of the layer, "companion" of an image folder (`retable.data.sources`). The
            view's recipe asks for it (`ViewRecipe.layers`).
    """

    layer: Name = "companion"

    def __post_init__(self) -> None:
        validate_fields(self)

    @property
    def count(self) -> int:
        """One twin for each image."""
        return 1

    def images(self, batch: Batch, view: int) -> Tensor:
        """Return the twins (1, B_r, 3, S, S) of a view."""
        layers = batch.layers[view] if view < len(batch.layers) else {}
        if self.layer not in layers:
            raise UserError(
                f"`layer` must be a layer of view {view + 1}, {sorted(layers) or 'none'}, got "
                f"{self.layer!r}. Add it to the `layers` of the view's recipe."
            )
        return layers[self.layer][None]
