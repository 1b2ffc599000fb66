"""The queue of keys that MoCo contrasts with: first in, first out, fixed length."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from retable.errors import UserError
from retable.nn.checks import Shaped, check_shapes
from retable.random import normal


class Moments(NamedTuple):
    """Moments of a queue's K rows: the mean row (D,) and outer product (D, D), float64."""

    size: int
    mean: Tensor
    products: Tensor


class KeyQueue(nn.Module):
    """The last ``size`` keys, first in, first out; at the start random unit vectors.

    The host never waits for the device. All processes hold the same queue: pass `enqueue` the keys
    of the global batch (`retable.distributed.gather`), and tell DDP not to broadcast buffers, which
    would send the whole queue at every step. Only `enqueue` may write rows, since it also updates
    their moments.

    Args:
        size: number K of rows.
        dim: dimension D of a row.
        rng_key: random key of the first rows, directions of Gaussian vectors (MoCo's code).
        labels: whether to keep a class with each row, for oracles and analyses.

    Attributes:
        rows: (K, D) float32.
        labels: (K,) int64, -1 where unknown; None without labels.
        filled: number of rows that hold real keys, at most K.
        pointer: index of the row that is written next.
    """

    rows: Tensor
    labels: Tensor | None
    _row_sum: Tensor
    _product_sum: Tensor

    def __init__(self, size: int, dim: int, rng_key: int, labels: bool = False) -> None:
        super().__init__()
        if size < 1:
            raise UserError(f"`size` of a queue must be at least 1 row, got {size}. Enlarge it.")
        if dim < 1:
            raise UserError(f"`dim` of a queue must be at least 1, got {dim}. Enlarge it.")
        rows = normal(rng_key, torch.arange(size * dim).view(size, dim))
        self.register_buffer("rows", nn.functional.normalize(rows, dim=1))
        self.register_buffer("labels", torch.full((size,), -1) if labels else None)
        self.register_buffer("_row_sum", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("_product_sum", torch.zeros(dim, dim, dtype=torch.float64))
        self._recompute_sums()
        self.pointer = 0
        self.filled = 0

    @property
    def size(self) -> int:
        """Number K of rows."""
        return self.rows.shape[0]

    @property
    def moments(self) -> Moments:
        """The moments of all rows, including random ones that no key has replaced yet."""
        return Moments(self.size, self._row_sum / self.size, self._product_sum / self.size)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, labels: Tensor | None = None) -> None:
        """Overwrite the oldest rows with ``keys`` (B, D), unit vectors, B at most K.

        The rows are changed in place: enqueue after the backward pass of a loss that used them
        (`Method.after_step`), otherwise autograd raises. ``labels`` (B,) int64 are required if the
        queue keeps labels.
        """
        check_shapes(
            Shaped("keys", keys, "b D"),
            Shaped("labels", labels, "b", kind="whole"),
            D=self.rows.shape[1],
        )
        count = keys.shape[0]
        if count > self.size:
            raise UserError(
                f"`keys` must have at most the queue's {self.size} rows, got {count}. Use a larger "
                "queue or a smaller batch."
            )
        oldest = self.rows[self.pointer : self.pointer + count]
        wraps = self.pointer + count >= self.size
        if not wraps:
            self._add_to_sums(oldest, -1.0)
        self._write(self.rows, keys.detach())
        if wraps:
            self._recompute_sums()
        else:
            self._add_to_sums(oldest, 1.0)
        if self.labels is not None:
            if labels is None:
                raise UserError("`labels` must be given to a queue that keeps labels, got None.")
            self._write(self.labels, labels)
        elif labels is not None:
            raise UserError(
                "`labels` must be None for a queue without labels. Build it with labels=True."
            )
        self.pointer = (self.pointer + count) % self.size
        self.filled = min(self.filled + count, self.size)

    def _write(self, buffer: Tensor, values: Tensor) -> None:
        first = min(values.shape[0], self.size - self.pointer)
        buffer[self.pointer : self.pointer + first].copy_(values[:first])
        buffer[: values.shape[0] - first].copy_(values[first:])

    def _add_to_sums(self, rows: Tensor, factor: float) -> None:
        """Add a multiple of rows (B, D) and of their outer products to the sums."""
        wide = rows.double()  # a product of two float32 is exact in float64
        self._row_sum.add_(wide.sum(dim=0), alpha=factor)
        self._product_sum.addmm_(wide.T, wide, alpha=factor)

    def _recompute_sums(self) -> None:
        """Recompute the sums, against rounding errors, once in each pass around the queue.

        This also removes a row that was not finite.
        """
        self._row_sum.zero_()
        self._product_sum.zero_()
        self._add_to_sums(self.rows, 1.0)

    def get_extra_state(self) -> Tensor:
        """Return pointer and fill as a tensor, which every checkpoint format can store."""
        return torch.tensor([self.pointer, self.filled])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore pointer and fill."""
        self.pointer, self.filled = (int(value) for value in state)
