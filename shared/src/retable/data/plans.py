"""What is in a batch: pure functions of the step, asked alike by every worker and process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from retable import random
from retable.data.sampler import Sampler


@dataclass(frozen=True)
class Request:
    """One batch to make: its step, its samples (B,) int64, and the random key of each view."""

    step: int
    indices: Tensor
    keys: tuple[int, ...]


class Plan(Protocol):
    """Says what a step's batch is; picklable, since worker processes ask too."""

    def __call__(self, step: int) -> Request:
        """Return what to make for a step."""
        ...


@dataclass(frozen=True)
class TrainingPlan:
    """Plans a process's share of each global batch; draws are keyed by (seed, epoch, view)."""

    sampler: Sampler
    view_count: int
    process: int
    processes: int

    def __call__(self, step: int) -> Request:
        """Return what to make for a training step."""
        epoch = self.sampler.epoch(step)
        keys = (
            random.derive_key(self.sampler.seed, "views", epoch, view)
            for view in range(self.view_count)
        )
        return Request(step, self.sampler.global_batch(step)[self.positions(step)], tuple(keys))

    def positions(self, step: int) -> Tensor:
        """Return the samples' positions in the global batch: (B_r,) int64."""
        return self.sampler.local_positions(step, self.process, self.processes)


@dataclass(frozen=True)
class EvaluationPlan:
    """Plans the samples [start, stop) in order, ``batch_size`` at a time."""

    start: int
    stop: int
    batch_size: int
    key: int

    def __call__(self, step: int) -> Request:
        """Return what to make for the batch number ``step``."""
        first = self.start + step * self.batch_size
        indices = torch.arange(first, min(first + self.batch_size, self.stop))
        return Request(step, indices, (self.key,))

    @property
    def steps(self) -> int:
        """The number of batches, the last perhaps shorter."""
        return -(-(self.stop - self.start) // self.batch_size)


def share_of(length: int, process: int, processes: int) -> range:
    """Return the contiguous share of range(length) that falls to a process.

    >>> [list(share_of(5, process, 2)) for process in range(2)]
    [[0, 1], [2, 3, 4]]
    """
    return range(length * process // processes, length * (process + 1) // processes)
