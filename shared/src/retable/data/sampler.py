"""Samples of a batch as a function of (seed, epoch, step), without state.

Nothing has to be saved or restored: a resumed run asks for step n. The global batch is the same on
any number of processes; each takes its contiguous share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retable import random
from retable.errors import UserError


class Sampler:
    """Random order of ``length`` samples without replacement, a new permutation in every epoch.

    ``batch_size`` is that of the global batch, over all processes. ``drop_last`` leaves out the
    epoch's incomplete batch, as self-supervised recipes do; otherwise it is shorter.

    Raises:
        UserError: the batch is larger than the data set.
    """

    def __init__(self, length: int, batch_size: int, seed: int, drop_last: bool = True) -> None:
        if length < 1:
            raise UserError("The data set is empty: use one with at least one sample.")
        if batch_size < 1:
            raise UserError(f"`batch_size` must be at least 1, got {batch_size}.")
        if drop_last and batch_size > length:
            raise UserError(
                f"The batch size {batch_size} exceeds the {length} samples of the data set: "
                f"choose a batch size of at most {length}."
            )
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.steps_per_epoch = length // batch_size if drop_last else -(-length // batch_size)
        self._latest: tuple[int, Tensor] | None = None

    def epoch_order(self, epoch: int) -> Tensor:
        """Return the order of all samples in an epoch: (length,) int64, a permutation."""
        # A cache of one entry: the steps of an epoch follow each other, and sorting takes 0.1 s for
        # a million samples.
        if self._latest is None or self._latest[0] != epoch:
            rng_key = random.derive_key(self.seed, "order", epoch)
            self._latest = epoch, random.permutation(rng_key, self.length)
        return self._latest[1]

    def epoch(self, step: int) -> int:
        """Return the zero-based epoch of a step counted over all epochs."""
        return step // self.steps_per_epoch

    def batch_length(self, step: int) -> int:
        """Return the number of samples of a step: the batch size but for a kept last batch."""
        start = step % self.steps_per_epoch * self.batch_size
        return min(self.batch_size, self.length - start)

    def global_batch(self, step: int) -> Tensor:
        """Return the samples of a step over all processes: (B,) int64 positions in the data set."""
        start = step % self.steps_per_epoch * self.batch_size
        return self.epoch_order(self.epoch(step))[start : start + self.batch_size]

    def local_positions(self, step: int, process: int, processes: int) -> Tensor:
        """Return the positions of a process's samples in the global batch: (B / processes,) int64.

        Raises:
            UserError: the processes do not divide the batch.
        """
        length = self.batch_length(step)
        if length % processes:
            raise UserError(
                f"A batch of {length} samples cannot be shared equally by {processes} processes: "
                f"choose a number of processes that divides {length}."
            )
        share = length // processes
        return torch.arange(process * share, (process + 1) * share)
