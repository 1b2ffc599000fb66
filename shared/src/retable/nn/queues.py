"""The queue of keys that MoCo contrasts with: first in, first out, fixed length."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from retable.errors import UserError
from retable.random import normal


class Moments(NamedTuple):
    """What the rows of a queue are like as a whole: statistics of scores follow from it.

    Attributes:
        size: number K of rows.
        mean: (D,) float64, the mean row.
        products: (D, D) float64, the mean outer product of a row with itself.
    """

    size: int
    mean: Tensor
    products: Tensor


class KeyQueue(nn.Module):
    """The last ``size`` keys, at first random unit vectors.

    The write position is a Python integer, known without asking the device. It is a part of the
    module's state, so that a loaded queue continues exactly. All processes hold the same queue:
    give `enqueue` the keys of the global batch (`retable.distributed.gather`), and tell DDP not to
    broadcast buffers, which would send the whole queue at every step.

    Let only `enqueue` write rows: it keeps the moments of all rows beside them.

    Args:
        size: number K of rows.
        dim: dimension D of a row.
        key: random key of the first rows, directions of Gaussian vectors (MoCo's code).
        labels: whether to keep a class beside each row, for oracles and analyses.

    Attributes:
        rows: (K, D) float32.
        labels: (K,) int64, -1 where unknown; None without labels.
        filled: how many rows hold real keys, at most K.
        pointer: the row that is written next.
    """

    rows: Tensor
    labels: Tensor | None
    _row_sum: Tensor
    _product_sum: Tensor

    def __init__(self, size: int, dim: int, rng_key: int, labels: bool = False) -> None:
        super().__init__()
        if size < 1:
            raise UserError(f"The queue's size is {size}; give it at least one row.")
        rows = normal(rng_key, torch.arange(size * dim).view(size, dim))
        self.register_buffer("rows", nn.functional.normalize(rows, dim=1))
        self.register_buffer("labels", torch.full((size,), -1) if labels else None)
        self.register_buffer("_row_sum", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("_product_sum", torch.zeros(dim, dim, dtype=torch.float64))
        self._sum_again()
        self.pointer = 0
        self.filled = 0

    @property
    def size(self) -> int:
        """The number K of rows."""
        return self.rows.shape[0]

    @property
    def moments(self) -> Moments:
        """The moments of all rows, also of the random ones that no key has replaced yet."""
        return Moments(self.size, self._row_sum / self.size, self._product_sum / self.size)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, labels: Tensor | None = None) -> None:
        """Overwrite the oldest rows by ``keys`` (B, D), which should be unit vectors.

        The rows are changed in place: enqueue after the backward pass of a loss that used them
        (`Method.after_step`), otherwise autograd refuses the backward pass.

        Args:
            keys: (B, D) with B at most K; the batch need not divide the queue.
            labels: (B,) int64, needed if the queue keeps labels.

        Raises:
            UserError: more keys than rows, or labels missing or unexpected.

        >>> queue = KeyQueue(4, 2, rng_key=0)
        >>> queue.enqueue(torch.ones(3, 2))
        >>> queue.rows.shape, queue.pointer, queue.filled
        (torch.Size([4, 2]), 3, 3)
        """
        count = keys.shape[0]
        if count > self.size:
            raise UserError(
                f"A batch of {count} keys does not fit into a queue of {self.size} rows; "
                f"use a queue of at least {count}."
            )
        wraps = self.pointer + count >= self.size
        if not wraps:
            self._add_to_sums(self.rows[self.pointer : self.pointer + count], -1.0)
        self._write(self.rows, keys.detach())
        if wraps:
            self._sum_again()
        else:
            self._add_to_sums(self.rows[self.pointer : self.pointer + count], 1.0)
        if self.labels is not None:
            if labels is None:
                raise UserError("The queue keeps labels; enqueue the keys with their labels.")
            self._write(self.labels, labels)
        elif labels is not None:
            raise UserError("The queue keeps no labels; build it with labels=True.")
        self.pointer = (self.pointer + count) % self.size
        self.filled = min(self.filled + count, self.size)

    def _write(self, buffer: Tensor, values: Tensor) -> None:
        first = min(values.shape[0], self.size - self.pointer)
        buffer[self.pointer : self.pointer + first].copy_(values[:first])
        buffer[: values.shape[0] - first].copy_(values[first:])

    def _add_to_sums(self, rows: Tensor, factor: float) -> None:
        """Add a multiple of rows (B, D) and of their products to the sums; work B D^2."""
        wide = rows.double()  # a product of two float32 is exact in float64
        self._row_sum.add_(wide.sum(dim=0), alpha=factor)
        self._product_sum.addmm_(wide.T, wide, alpha=factor)

    def _sum_again(self) -> None:
        """Sum over all rows: once around the queue, the work of one more update at every step.

        So rounding does not pile up, and a row that was not finite leaves the sums with the queue.
        """
        self._row_sum.zero_()
        self._product_sum.zero_()
        self._add_to_sums(self.rows, 1.0)

    def get_extra_state(self) -> Tensor:
        """Return pointer and fill as a tensor, the one type that every checkpoint format takes."""
        return torch.tensor([self.pointer, self.filled])

    def set_extra_state(self, state: Tensor) -> None:
        """Continue where the saved queue stood."""
        self.pointer, self.filled = (int(value) for value in state)
