"""Losses of proposals, boxes, classes and masks, as Detectron2 has them by default.

Boxes are compared by the absolute difference of their codes: torchvision's smooth L1 with beta 1/9
is another loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align


def proposal_losses(
    scores: Tensor, codes: Tensor, labels: Tensor, targets: Tensor, budget: int
) -> tuple[Tensor, Tensor]:
    """Return the losses of objectness and of boxes of sampled anchors.

    Args:
        scores: (N,) logits of all anchors of all images.
        codes: (N, 4) predicted box codes.
        labels: (N,) 1 for chosen objects, 0 for chosen background, -1 for all others.
        targets: (N, 4) codes of the anchors' boxes.
        budget: anchors that could have been chosen, in all images; both sums are divided by it.
    """
    chosen, positive = labels >= 0, labels == 1
    objectness = F.binary_cross_entropy_with_logits(
        scores[chosen], labels[chosen].to(scores.dtype), reduction="sum"
    )
    boxes = F.l1_loss(codes[positive], targets[positive], reduction="sum")
    return objectness / budget, boxes / budget


def region_losses(
    scores: Tensor, codes: Tensor, labels: Tensor, targets: Tensor, count: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return the losses of classes and of boxes of sampled regions, divided by their ``count``.

    Args:
        scores: (N, K + 1) logits, of the background first.
        codes: (N, (K + 1) * 4) predicted box codes of every class.
        labels: (N,) classes, 0 for background.
        targets: (N, 4) codes of the regions' boxes.
        count: N; with several processes its mean, so that the mean of their losses is that of all.
    """
    positive = labels.gt(0).nonzero()[:, 0]
    of_class = codes.view(len(codes), -1, 4)[positive, labels[positive]]
    boxes = F.l1_loss(of_class, targets[positive], reduction="sum")
    return F.cross_entropy(scores, labels, reduction="sum") / count, boxes / count


def mask_loss(scores: Tensor, labels: Tensor, targets: Tensor, count: Tensor | float) -> Tensor:
    """Return the loss of the masks of foreground regions, 0 if there are none.

    Args:
        scores: (N, K + 1, S, S) logits of every class.
        labels: (N,) classes from 1.
        targets: (N, S, S) bool.
        count: N, see `region_losses`.
    """
    if not len(labels):
        return scores.sum() * 0.0
    of_class = scores[torch.arange(len(labels), device=labels.device), labels]
    of_pixels = F.binary_cross_entropy_with_logits(
        of_class, targets.to(scores.dtype), reduction="none"
    )
    return of_pixels.mean(dim=(1, 2)).sum() / count


def mask_targets(masks: Tensor, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
    """Return the masks of objects inside boxes: (M, side, side) bool.

    Masks are averaged over each cell and at least half of it must be covered, as in Detectron2;
    torchvision's targets lie half a pixel aside and are not binary.

    Args:
        masks: (N, H, W) of an image's objects.
        boxes: (M, 4).
        matched: (M,) object of each box.
        side: of the targets.
    """
    regions = torch.cat([matched[:, None].to(boxes.dtype), boxes], dim=1)
    covered = roi_align(masks[:, None].to(boxes.dtype), regions, side, aligned=True)
    return covered[:, 0] >= 0.5
