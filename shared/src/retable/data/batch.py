"""Batches of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """The optimizer step about to be made, counted from 0, of a training."""

    step: int
    steps_per_epoch: int
    epochs: int

    @property
    def epoch(self) -> int:
        """The zero-based epoch of this step."""
        return self.step // self.steps_per_epoch


@dataclass(frozen=True)
class Batch:
    """One process's share of a global batch of B samples, of which it holds B_r.

    Attributes:
        views: V tensors (B_r, 3, S, S), float32, normalised; row b of each belongs to sample b.
        labels: (B_r,) int64 classes, -1 where unknown; read only by oracles and supervised methods.
        indices: (B_r,) int64 positions of the samples in the data set.
        positions: (B_r,) int64 positions of the samples in the global batch: the counters of
            per-sample draws, so that a split batch draws what one process would.
        rng_key: the random key of this step, equal on all processes.
        layers: for each view the layers that its recipe asks for (`ViewRecipe.layers`), by name:
            maps (B_r, C, S, S), images like the views, boxes (B_r, N, 5 or more) as
            `retable.views.layers.cut_boxes` returns them. Empty if no view asks for one.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    indices: Tensor
    positions: Tensor
    progress: Progress
    rng_key: int
    layers: tuple[Mapping[str, Tensor], ...] = ()

    def rows(self, rows: slice | Tensor) -> Batch:
        """Return a part of the batch, for instance a micro-batch."""
        return replace(
            self,
            views=tuple(view[rows] for view in self.views),
            labels=self.labels[rows],
            indices=self.indices[rows],
            positions=self.positions[rows],
            layers=map_layers(lambda layer: layer[rows], self.layers),
        )


def map_layers(
    function: Callable[[Tensor], Tensor], layers: Iterable[Mapping[str, Tensor]]
) -> tuple[dict[str, Tensor], ...]:
    """Apply a function to every layer of every view."""
    return tuple({name: function(layer) for name, layer in of.items()} for of in layers)
