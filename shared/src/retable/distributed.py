"""Communication between the processes of a run: gather, mean, rank.

In a single process every function is the identity, so that one code serves any number of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_connected() -> bool:
    """Return whether a process group exists, also one of a single process."""
    return dist.is_available() and dist.is_initialized()


def process_count() -> int:
    """Return the number of processes that share a global batch."""
    return dist.get_world_size() if is_connected() else 1


def process_index() -> int:
    """Return this process's rank, 0 in a single process."""
    return dist.get_rank() if is_connected() else 0


def gather(local: Tensor) -> Tensor:
    """Concatenate (B_r, ...) of all R processes along dim 0 in rank order: (R * B_r, ...).

    Without gradient; every process must hold the same shape.
    """
    if process_count() == 1:
        return local.detach()
    local = local.detach().contiguous()
    parts = [torch.empty_like(local) for _ in range(process_count())]
    dist.all_gather(parts, local)
    return torch.cat(parts)


def gather_objects(local: list[Any]) -> list[Any]:
    """Concatenate lists of picklable values of all processes in rank order."""
    if process_count() == 1:
        return local
    parts: list[list[Any]] = [[] for _ in range(process_count())]
    dist.all_gather_object(parts, local)
    return [value for part in parts for value in part]


def any_of(flag: bool, device: torch.device | str) -> bool:
    """Return whether the flag of any process is set."""
    if process_count() == 1:
        return flag
    return bool(gather(torch.tensor([flag], dtype=torch.uint8, device=device)).any())


def broadcast(value: Tensor, source: int) -> None:
    """Overwrite a contiguous tensor with that of the process ``source``, without gradient."""
    if process_count() > 1:
        dist.broadcast(value, source)


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return gather(local)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(process_count())[process_index()]


def gather_with_gradient(local: Tensor) -> Tensor:
    """Like `gather`, with the gradient of the sum of all processes' losses.

    If every process computes the *same* global loss from the gathered rows and the gradients of
    parameters are averaged over processes afterwards (as DDP does), the result is the gradient of
    that loss: the backward pass sums R equal terms, the average divides by R.
    """
    if process_count() == 1:
        return local
    gathered: Tensor = _GatherWithGradient.apply(local)
    return gathered


def total(value: Tensor) -> Tensor:
    """Sum a tensor over processes, without gradient; the same bits on each."""
    value = value.detach().clone()
    if process_count() > 1:
        dist.all_reduce(value)
    return value


def mean(value: Tensor) -> Tensor:
    """Average a tensor over processes, without gradient."""
    return total(value) / process_count()


def mean_count(rows: Tensor) -> Tensor:
    """Return how many of its ``rows`` (...) bool a process has on average, at least one in all.

    A sum over a process's rows divided by it has as its mean over processes that over all rows.
    """
    return mean(rows.sum().float()).clamp(min=1 / process_count())


def own_slice(rows: Tensor) -> Tensor:
    """Return this process's equal share of rows that are equal on all processes."""
    return rows.chunk(process_count())[process_index()] if process_count() > 1 else rows
