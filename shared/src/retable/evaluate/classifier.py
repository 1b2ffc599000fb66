"""A linear classifier on features, and its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from retable.distributed import total
from retable.errors import UserError


def unit_rows(features: Tensor) -> Tensor:
    """Scale rows (n, F) to unit length whatever their size; rows of zeros stay zero.

    The squares of float32 numbers beyond 1e19 overflow and those below 1e-19 vanish; such rows are
    first divided by their largest entry.
    """
    largest = features.abs().amax(1, keepdim=True)
    extreme = (largest > 1e15) | ((largest < 1e-10) & (largest > 0))
    if bool(extreme.any()):
        features = torch.where(extreme, features / largest.clamp_min(1e-38), features)
    return F.normalize(features, dim=1)


@dataclass(frozen=True)
class LinearClassifier:
    """A linear classifier: weight (C, F) and bias (C,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return logits (n, C) of features (n, F)."""
        return torch.addmm(self.bias, features, self.weight.T)


def accuracy(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Return top-1 and top-5 accuracy in percent of scores (n, C), higher is likelier.

    With fewer than five classes top-5 is over all of them, hence 100. "mean_per_class" is the mean
    of the classes' own top-1 accuracies, of the classes that have labels.
    """
    return _percent(_hits(scores, labels))


def accuracy_of(
    classifier: LinearClassifier,
    features: Tensor,
    labels: Tensor,
    *,
    images: int | None = None,
    rows: int = 16384,
) -> dict[str, float]:
    """Return `accuracy` on features (n, F), ``rows`` at a time instead of all scores at once.

    Where every process passes other rows, ``images`` is how many they are together; None: these
    rows are all there are.
    """
    hits = features.new_zeros(3, len(classifier.bias), dtype=torch.int64)
    for x, y in zip(torch.split(features, rows), torch.split(labels, rows), strict=True):
        hits += _hits(classifier(x), y)
    return _percent(hits if images is None else total(hits))


def _hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many labels (n,) score highest, among the five highest, and are there at all.

    By class: (3, C) int64.
    """
    ranked = scores.topk(min(5, scores.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    counted = torch.stack([hits[:, 0], hits.any(1), torch.ones_like(hits[:, 0])]).long()
    return counted.new_zeros(3, scores.shape[1]).index_add_(1, labels, counted)


def _percent(hits: Tensor) -> dict[str, float]:
    first, five, images = hits.tolist()
    shares = [hit / count for hit, count in zip(first, images, strict=True) if count]
    return {
        "top1": 100 * sum(first) / sum(images),
        "top5": 100 * sum(five) / sum(images),
        "mean_per_class": 100 * sum(shares) / len(shares),
    }


def check_labels(labels: Tensor, classes: int, split: str) -> None:
    """Check that there are labels and all are in [0, classes), unlike the -1 of "unknown"."""
    if len(labels) == 0:
        raise UserError(f"the {split} split is empty: expected labelled images to evaluate on.")
    low, high = int(labels.min()), int(labels.max())
    if unknown := int((labels == -1).sum()):
        raise UserError(
            f"{unknown} of {len(labels)} images of the {split} split have no label (the split has "
            f"labels from {low} to {high}): expected 0 to {classes - 1}, so evaluate on a labelled "
            "data set, or leave these images out of it."
        )
    if low < 0 or high >= classes:
        raise UserError(
            f"the {split} split has labels from {low} to {high}: expected 0 to {classes - 1}, so "
            "evaluate on a labelled data set."
        )
