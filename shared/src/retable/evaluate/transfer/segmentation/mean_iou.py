"""Mean intersection over union of classes, over all pixels of a data set."""

from __future__ import annotations

import torch
from torch import Tensor

from retable.data.transfer.pixel_classes import IGNORED


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return how many pixels of each class were given to each: (K, K) int64, rows are labels.

    Args:
        predicted: (...) classes.
        labels: (...) classes, or `IGNORED`.
        classes: K.

    >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), 2)
    tensor([[1, 1],
            [0, 0]])
    """
    counted = labels != IGNORED
    pairs = labels[counted].long() * classes + predicted[counted].long()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def mean_iou(counts: Tensor) -> float:
    """Return the mean over classes of pixels in both over pixels in either, in percent.

    Classes that are neither labelled nor predicted do not count.
    """
    found = counts.double()
    both = found.diagonal()
    either = found.sum(0) + found.sum(1) - both
    present = either > 0
    return float(100 * (both[present] / either[present]).mean())
