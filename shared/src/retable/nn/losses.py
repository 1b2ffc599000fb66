"""Contrastive losses, computed in float32 at least, also under autocast."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from retable import distributed
from retable.nn.checks import Rows, Shaped, check_shapes, check_temperature, unit_rows


class _FirstColumnCrossEntropy(torch.autograd.Function):
    """Cross-entropy with target 0 at the temperature, mean over rows.

    The logits of a large queue are the largest tensor of a contrastive step. This reads and writes
    them half as often as a division by the temperature and `F.cross_entropy`.
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
        # In place: the peak holds one matrix of the queue's size less. Autograd sees the change and
        # refuses a second backward pass through the same loss. Float64 is for checks of gradients,
        # which make several.
        once = log_probabilities.dtype != torch.float64
        gradient = log_probabilities.exp_() if once else log_probabilities.exp()
        gradient[:, 0] -= 1
        return gradient.mul_(grad / (gradient.shape[0] * ctx.temperature)), None


def info_nce(logits: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE with the positive in column 0, mean over rows (He et al., 2020, equation 1).

    Args:
        logits: (B, 1 + K) similarities, not yet divided by the temperature; -inf masks a negative.
            Float64 stays, everything else is computed in float32.
        temperature: tau; 0.07 in MoCo v1, 0.2 in v2.

    Returns:
        A scalar, ``mean_b(logsumexp_j(logits[b, j] / tau) - logits[b, 0] / tau)``; log(1 + K) where
        all logits are equal. The mean over processes is the loss of the global batch.
    """
    check_shapes(Shaped("logits", logits, "B 1+K", remedy=_POSITIVE_FIRST))
    check_temperature(temperature)
    loss: Tensor = _FirstColumnCrossEntropy.apply(_widened(logits), temperature)
    return loss


_POSITIVE_FIRST = "Pass the positive's score first, then those of at least one negative."


def _widened(values: Tensor) -> Tensor:
    """Convert half precision to float32; leave float32 and float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Pairs(NamedTuple):
    """The embeddings of a batch that are scored against each other, without a queue.

    A method that changes the pairs of SimCLR replaces fields of the result of `view_pairs`.

    Attributes:
        anchors: (A, D), of this process.
        partners: (A, D), the positive of each anchor.
        columns: (C, D), the candidates for negatives, of all processes and equal on each.
        masked: (A, C) bool, the columns that are not negatives of an anchor.
    """

    anchors: Tensor
    partners: Tensor
    columns: Tensor
    masked: Tensor

    def check(self, **sizes: int) -> None:
        """Raise a UserError unless the embeddings fit together, and A, D or C have given sizes."""
        check_shapes(
            Shaped("pairs.anchors", self.anchors, "A D"),
            Shaped("pairs.partners", self.partners, "A D"),
            Shaped("pairs.columns", self.columns, "C D"),
            Shaped("pairs.masked", self.masked, "A C", kind="mask"),
            **sizes,
        )

    def logits(self) -> Tensor:
        """Return the scores (A, 1 + C) for `info_nce`: the positive first, -inf where masked."""
        self.check()
        positives = (self.anchors * self.partners).sum(dim=1, keepdim=True)
        negatives = (self.anchors @ self.columns.T).masked_fill(self.masked, -torch.inf)
        return torch.cat([positives, negatives], dim=1)


def view_pairs(first: Tensor, second: Tensor, *, rows: Rows = "unit") -> Pairs:
    """Pair two views (B_r, D) as SimCLR does (Chen et al., 2020, equation 1): A = 2 B_r, C = 2 B.

    Each unit embedding is an anchor whose partner is the image's other view. The columns are the
    embeddings of the global batch with gradient, all first views before all second ones. An anchor
    and its partner are masked for that anchor. ``rows`` is explained in
    `retable.nn.checks.unit_rows`.
    """
    check_shapes(Shaped("first", first, "B D"), Shaped("second", second, "B D"))
    first, second = unit_rows("first", first, rows), unit_rows("second", second, rows)
    count, processes = first.shape[0], distributed.process_count()
    images = torch.arange(count * processes, device=first.device)
    own = distributed.own_slice(images)
    return Pairs(
        anchors=torch.cat([first, second]),
        partners=torch.cat([second, first]),
        columns=torch.cat([distributed.gather_with_gradient(view) for view in (first, second)]),
        masked=torch.cat([own, own])[:, None] == torch.cat([images, images]),
    )


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return SimCLR's loss over all processes' embeddings (Chen et al., 2020, equation 1).

    Each of the 2 B embeddings of the global batch is contrasted with its other view against the
    2 (B - 1) embeddings of other samples. A process computes the rows of its own samples; the mean
    over processes of losses and of parameters' gradients (DDP) is that of the global batch. The
    embeddings (B_r, D) of this process's two views are normalised here. The temperature is 0.1 in
    SimCLR at batch 4096 (table 5), 0.5 at CIFAR size (appendix B.9).
    """
    check_shapes(Shaped("first", first, "B D"), Shaped("second", second, "B D"))
    with torch.autocast(first.device.type, enabled=False):
        views = [F.normalize(_widened(view), dim=1) for view in (first, second)]
        return info_nce(view_pairs(*views, rows="unchecked").logits(), temperature)
