"""The hard pool of a query: the N rows of the queue that are most similar to it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from retable.errors import UserError
from retable.nn.checks import Shaped, check_shapes


class HardPool(NamedTuple):
    """The pools of B queries.

    Attributes:
        rows: (B, N) int64 rows of the queue, hardest first.
        sizes: (B,) int64, number of usable rows: N, or fewer where negatives are masked.
    """

    rows: Tensor
    sizes: Tensor


@torch.no_grad()
def hardest(cosines: Tensor, n_hard: int) -> HardPool:
    """Return the N highest of the K cosines of each query (MoCHi, section 3.2).

    The order does not depend on the temperature.

    Args:
        cosines: (B, K) similarities of queries and queue; -inf masks a row.
        n_hard: N, from 1 to K.

    >>> hardest(torch.tensor([[0.1, 0.9, -float("inf"), 0.5]]), n_hard=3)
    HardPool(rows=tensor([[1, 3, 0]]), sizes=tensor([3]))
    """
    check_shapes(Shaped("cosines", cosines, "B K"))
    check_pool(n_hard, cosines.shape[1])
    # Sorted: if rounding (another batch split or device) swaps two near-equal cosines, only these
    # two change places.
    values, rows = _top(cosines.detach(), n_hard)
    return HardPool(rows, (values > -math.inf).sum(dim=1))


def check_pool(n_hard: int, queue_size: int) -> None:
    """Raise a UserError unless a pool of ``n_hard`` fits into the queue."""
    if not 1 <= n_hard <= queue_size:
        raise UserError(
            f"`n_hard` must be at least 1 and at most the queue's {queue_size} rows, got {n_hard}. "
            "Change n_hard or enlarge the queue."
        )


def _top(values: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the n largest of each row (B, K), sorted, in two exact rounds where that is faster.

    Divide a row into K / g groups of g. A group with one of the n largest values has a maximum at
    least as large, so at most n groups do, and they are among the n groups with the largest maxima:
    the second round searches only these. Instead of K values, K / g + n g are searched, which is
    least at g = sqrt(K / n).
    """
    count = values.shape[1]
    group = 1 << round(math.log2(math.sqrt(count / n)))
    if group < _SMALLEST_GROUP or count % group:
        top = values.topk(n, dim=1)
        return top.values, top.indices
    grouped = values.view(len(values), group, count // group)  # element i is in group i mod K / g
    groups = grouped.amax(dim=1).topk(n, dim=1, sorted=False).indices
    starts = torch.arange(0, count, count // group, device=values.device)
    candidates = (groups[:, None, :] + starts[:, None]).flatten(1)
    best = values.gather(1, candidates).topk(n, dim=1)
    return best.values, candidates.gather(1, best.indices)


_SMALLEST_GROUP = 8  # with smaller groups, one round is as fast
