"""Contrastive losses. All compute in float32, whatever autocast does around them."""

from __future__ import annotations

from typing import Any, NamedTuple

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


class Pairs(NamedTuple):
    """Which embeddings of a batch are scored against which, without a queue.

    A paper that changes the pairs of SimCLR replaces fields of what `view_pairs` returns.

    Attributes:
        anchors: (A, D), of this process.
        partners: (A, D), the positive of each anchor.
        columns: (C, D), the candidates for negatives, of all processes and the same on each.
        barred: (A, C) bool, the columns that are no negative of an anchor.
    """

    anchors: Tensor
    partners: Tensor
    columns: Tensor
    barred: Tensor

    def logits(self) -> Tensor:
        """Return the scores (A, 1 + C) for `info_nce`: the positive first, -inf where barred."""
        positives = (self.anchors * self.partners).sum(dim=1, keepdim=True)
        negatives = (self.anchors @ self.columns.T).masked_fill(self.barred, -torch.inf)
        return torch.cat([positives, negatives], dim=1)


def view_pairs(first: Tensor, second: Tensor) -> Pairs:
    """Pair two views as SimCLR does (Chen et al., 2020, equation 1): A = 2 B_r, C = 2 B.

    Each embedding is an anchor whose partner is its other view. The columns are the embeddings of
    the global batch, all first views before all second ones, with gradient; an anchor's own image
    is barred, that is the anchor itself and its partner.

    Args:
        first: (B_r, D) unit embeddings of one view of this process's samples.
        second: (B_r, D) of the other view.

    >>> pairs = view_pairs(torch.ones(3, 8), torch.ones(3, 8))
    >>> pairs.columns.shape, pairs.logits().shape, pairs.barred.sum(1).tolist()
    (torch.Size([6, 8]), torch.Size([6, 7]), [2, 2, 2, 2, 2, 2])
    """
    count, processes = first.shape[0], distributed.process_count()
    images = torch.arange(count * processes, device=first.device)
    own = distributed.own_slice(images)
    return Pairs(
        anchors=torch.cat([first, second]),
        partners=torch.cat([second, first]),
        columns=torch.cat([distributed.gather_with_gradient(view) for view in (first, second)]),
        barred=torch.cat([own, own])[:, None] == torch.cat([images, images]),
    )


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
    with torch.autocast(first.device.type, enabled=False):
        views = [F.normalize(view.float(), dim=1) for view in (first, second)]
        return info_nce(view_pairs(*views).logits(), temperature)
