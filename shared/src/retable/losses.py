"""Contrastive losses. All compute in float32, whatever autocast does around them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from retable import distributed
from retable.errors import UserError


def _check(temperature: float) -> None:
    if not temperature > 0:
        raise UserError(f"The temperature is {temperature}; use a positive number.")


class _FirstColumnCrossEntropy(torch.autograd.Function):
    """Cross-entropy with target 0, mean over rows, at the temperature.

    The logits of a large queue are by far the largest tensor of a contrastive step. This passes
    over them half as often as `F.cross_entropy` and its division by the temperature.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, temperature: float) -> Tensor:
        log_probabilities = (logits / temperature).log_softmax(1)
        ctx.save_for_backward(log_probabilities)
        ctx.temperature = temperature
        return -log_probabilities[:, 0].mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (log_probabilities,) = ctx.saved_tensors
        # In place: one matrix of the queue's size less at the peak. A second backward pass through
        # the same loss is refused by autograd, which sees the change.
        gradient = log_probabilities.exp_()
        gradient[:, 0] -= 1
        return gradient.mul_(grad / (gradient.shape[0] * ctx.temperature)), None


def info_nce(logits: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE with the positive in column 0, mean over rows (MoCo, equation 1).

    Args:
        logits: (B, 1 + K) similarities, not yet divided by the temperature; -inf drops a negative.
        temperature: tau; 0.07 in MoCo v1, 0.2 in v2.

    Returns:
        A scalar, ``mean_b(logsumexp_j(logits[b, j] / tau) - logits[b, 0] / tau)``; log(1 + K) where
        all logits are equal. The mean over processes is the loss of the global batch.

    Raises:
        UserError: the temperature is not positive.

    >>> info_nce(torch.zeros(2, 5), 0.2).shape
    torch.Size([])
    """
    _check(temperature)
    loss: Tensor = _FirstColumnCrossEntropy.apply(logits.float(), temperature)
    return loss


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return SimCLR's loss over all processes' embeddings (Chen et al., 2020, equation 1).

    Each of the 2 B embeddings of the global batch is contrasted with its other view against the
    2 (B - 1) embeddings of other samples. A process computes the rows of its own samples; the mean
    over processes of losses and of parameters' gradients (DDP) is that of the global batch.

    Args:
        first: (B_r, D) embeddings of one view of this process's samples, normalised here.
        second: (B_r, D) of the other view.
        temperature: tau; 0.1 in SimCLR at batch 4096 (table 5), 0.5 at CIFAR size (appendix B.9).

    Returns:
        A scalar.

    Raises:
        UserError: the temperature is not positive.

    >>> nt_xent(torch.ones(3, 8), torch.ones(3, 8), 0.5).shape
    torch.Size([])
    """
    _check(temperature)
    with torch.autocast(first.device.type, enabled=False):
        first = F.normalize(first.float(), dim=1)
        second = F.normalize(second.float(), dim=1)
        everything = torch.cat(
            [distributed.gather_with_gradient(first), distributed.gather_with_gradient(second)]
        )
        count = first.shape[0]
        whole = everything.shape[0] // 2
        positions = torch.arange(count, device=first.device) + distributed.process_index() * count
        logits = torch.cat([first, second]) @ everything.T / temperature
        own = torch.cat([positions, positions + whole])
        logits = logits.scatter(1, own[:, None], -torch.inf)
        return F.cross_entropy(logits, torch.cat([positions + whole, positions]))
