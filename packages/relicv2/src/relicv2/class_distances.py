"""How far classes are apart in the space of features (figures 4 and 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from retable.errors import UserError
from retable.nn.checks import Shaped, check_shapes

_ROWS = 1024


def concentration(features: Tensor, labels: Tensor, *, rows: int = _ROWS) -> Tensor:
    """Return for each class how far its images are from others in units of their own distances.

    The mean distance of an image of the class to one of another class, over the mean distance of
    two images of the class. 1 where classes are not told apart, larger where they are. The paper
    shows such ratios without stating them (figure 4).

    Args:
        features: (n, F).
        labels: (n,) int64 from 0 on.
        rows: images whose distances to all others are in memory at a time.

    Returns:
        (C,) float64, NaN for a class with fewer than two images, without others, or of equal
        images.

    Raises:
        UserError: the shapes do not fit, or a label is negative.
    """
    check_shapes(Shaped("features", features, "N F"), Shaped("labels", labels, "N", kind="whole"))
    if (labels < 0).any():
        raise UserError(
            f"`labels` must be 0 or more, got {int(labels.min())}. Leave unlabelled images out."
        )
    count = torch.bincount(labels).double()
    classes = len(count)
    # Sums of distances from images of one class (row) to images of another (column).
    sums = features.new_zeros(classes, classes, dtype=torch.float64)
    points = features.double()
    for start in range(0, len(points), rows):
        block = torch.cdist(points[start : start + rows], points)
        to_class = block.new_zeros(len(block), classes).index_add_(1, labels, block)
        sums.index_add_(0, labels[start : start + rows], to_class)
    within = sums.diagonal() / (count * (count - 1))
    between = (sums.sum(dim=1) - sums.diagonal()) / (count * (len(labels) - count))
    ratio = between / within
    known = (count > 1) & (count < len(labels)) & (within > 0)
    return torch.where(known, ratio, torch.nan)


def nearest_others(features: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """Return the k nearest other images of each image by Euclidean distance (figure 7).

    Returns distances (n, k), rising, and positions (n, k) int64, for features (n, F) of one table
    of confusion, 200 in the paper.
    """
    check_shapes(Shaped("features", features, "N F"))
    if not 1 <= k < len(features):
        raise UserError(
            f"`k` must be from 1 to the number of other images, {len(features) - 1}, got {k}. "
            "Use more images."
        )
    distances = torch.cdist(features.double(), features.double())
    distances.fill_diagonal_(torch.inf)
    found = distances.topk(k, dim=1, largest=False)
    return found.values, found.indices


def same_rate(positions: Tensor, labels: Tensor) -> float:
    """Return the share of neighbours (n, k) that have the label (n,) of their image."""
    return float((labels[positions] == labels[:, None]).double().mean())
