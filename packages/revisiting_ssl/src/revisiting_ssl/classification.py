"""What the three pretext tasks with classes share: one view in, a cross-entropy out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from retable.errors import UserError
from retable.methods.method import Batch, StepOutput


def classified(logits: Tensor, labels: Tensor) -> StepOutput:
    """Return the mean cross-entropy of scores (n, C) with labels (n,), and the share found.

    >>> import torch
    >>> classified(torch.zeros(8, 4), torch.arange(8) % 4)
    StepOutput(loss=tensor(1.3863), metrics={'accuracy': tensor(0.2500)}, trace={})
    """
    accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
    return StepOutput(F.cross_entropy(logits, labels), {"accuracy": accuracy})


def only_view(batch: Batch, task: str, maker: str) -> Tensor:
    """Return the one view of a batch, or raise a UserError that names what makes it."""
    if len(batch.views) != 1:
        raise UserError(
            f"{task} got {len(batch.views)} views of each image: expected one, of {maker}."
        )
    return batch.views[0]
