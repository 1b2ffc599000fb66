"""Plans of batches: pure functions of the step, evaluated by every worker and process alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from retable import random
from retable.data.sampler import Sampler


@dataclass(frozen=True)
class BatchSpec:
    """One batch to make: the samples (B,) int64 of a step, and the random key of each view.

    ``image_key`` is the key of the draws that an image's views share.
    """

    step: int
    indices: Tensor
    keys: tuple[int, ...]
    image_key: int


Plan = Callable[[int], BatchSpec]
"""Maps a step to its batch; picklable, since worker processes call it too."""


@dataclass(frozen=True)
class TrainingPlan:
    """Plans a process's share of each global batch; draws are keyed by (seed, epoch, view).

    Draws that an image's views share are keyed by (seed, epoch).
    """

    sampler: Sampler
    view_count: int
    process: int
    processes: int

    def __call__(self, step: int) -> BatchSpec:
        """Return the batch to make for a training step."""
        epoch = self.sampler.epoch(step)
        keys = (
            random.derive_key(self.sampler.seed, "views", epoch, view)
            for view in range(self.view_count)
        )
        image_key = random.derive_key(self.sampler.seed, "images", epoch)
        indices = self.sampler.global_batch(step)[self.positions(step)]
        return BatchSpec(step, indices, tuple(keys), image_key)

    def positions(self, step: int) -> Tensor:
        """Return the samples' positions in the global batch: (B_r,) int64."""
        return self.sampler.local_positions(step, self.process, self.processes)


@dataclass(frozen=True)
class EvaluationPlan:
    """Plans given samples (n,) int64 in their order, ``batch_size`` at a time.

    ``keys`` are those of the views; by default there is one view with the key of the images.
    """

    rows: Tensor
    batch_size: int
    rng_key: int
    keys: tuple[int, ...] = ()

    def __call__(self, step: int) -> BatchSpec:
        """Return the batch number ``step``."""
        first = step * self.batch_size
        indices = self.rows[first : first + self.batch_size]
        return BatchSpec(step, indices, self.keys or (self.rng_key,), self.rng_key)

    @property
    def steps(self) -> int:
        """The number of batches, the last perhaps shorter."""
        return -(-len(self.rows) // self.batch_size)


def share_of(length: int, process: int, processes: int) -> range:
    """Return the contiguous share of range(length) that falls to a process."""
    return range(length * process // processes, length * (process + 1) // processes)
