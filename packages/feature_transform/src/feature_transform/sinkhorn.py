"""Sinkhorn codes: SwAV's balanced assignment to prototypes (Caron et al., section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from retable import distributed
from retable.errors import UserError
from retable.nn.checks import Shaped, check_shapes


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Assign samples to prototypes so that all prototypes receive about equal shares.

    From exp(scores / epsilon), columns are scaled to equal sums and then rows to one, a few times
    in turn (Cuturi, 2013; SwAV's equation 3 and official code). It is computed in logarithms:
    extrapolated features have scores from -3 to 3, and exp(-3 / 0.05) and exp(3 / 0.05) differ by
    52 orders of magnitude, too much for float32.

    The codes are those of the samples of all processes together. Each process keeps its own rows,
    and an iteration gathers one number for each prototype from each process; processes may hold
    different numbers of rows.

    Args:
        scores: (B_r, P) dot products of this process's samples with the prototypes.
        epsilon: temperature of the assignment, 0.05 in SwAV; small values give hard assignments.
        iterations: 3 in SwAV; 0 gives the softmax of each row.

    Returns:
        (B_r, P) in at least float32, without gradient; rows sum to one, and over all processes the
        columns of B samples approach B / P.

    >>> codes = sinkhorn(torch.tensor([[0.9, 0.1], [0.9, 0.3]]), epsilon=0.05, iterations=100)
    >>> codes.round(decimals=2)
    tensor([[0.8800, 0.1200],
            [0.1200, 0.8800]])
    """
    check_shapes(Shaped("scores", scores, "B P"))
    check_sinkhorn(epsilon, iterations)
    log_codes = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
    for iteration in range(iterations):
        if iteration > 0:
            log_codes = log_codes.log_softmax(dim=1)
        shares = distributed.gather(log_codes.logsumexp(dim=0, keepdim=True))
        log_codes = log_codes - shares.logsumexp(dim=0)
    return log_codes.softmax(dim=1)


def check_sinkhorn(epsilon: float, iterations: int) -> None:
    """Raise a UserError unless epsilon is positive and the iterations are not negative."""
    if not epsilon > 0:
        raise UserError(f"`epsilon` must be positive, got {epsilon}. Use 0.05, SwAV's value.")
    if iterations < 0:
        raise UserError(
            f"`sinkhorn_iterations` must be 0 or more, got {iterations}. Use 3, SwAV's value."
        )
