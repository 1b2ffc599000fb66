"""Dropout as a function: which units of a row stay is a hash of a key and the row's number."""

from __future__ import annotations

import torch
from torch import Tensor

from retable import random


def dropout(rows: Tensor, rate: float, key: int, numbers: Tensor) -> Tensor:
    """Set units to zero at random and scale the others so that means stay what they are.

    A batch that is split over processes drops what the whole batch would.

    Args:
        rows: (n, D).
        rate: probability that a unit is dropped, in [0, 1), rounded to a multiple of 2^-16.
        key: key of the draws, equal on all processes.
        numbers: (n,) int64, the number of each row among those of all processes.

    Returns:
        (n, D), units times 0 or 1 / (1 - rate).

    >>> dropout(torch.ones(2, 8), 0.5, 0, torch.arange(2)).unique()
    tensor([0., 2.])
    """
    words = -(-rows.shape[1] // 4)
    counters = numbers[:, None] * words + torch.arange(words, device=rows.device)
    # One hash of 64 bits decides on four units: a number from -2^15 to 2^15 - 1 for each.
    draws = random.bits(key, counters).view(torch.int16)[:, : rows.shape[1]]
    kept = draws >= round(rate * 2**16) - 2**15
    return torch.where(kept, rows, 0.0) * (1 / (1 - rate))
