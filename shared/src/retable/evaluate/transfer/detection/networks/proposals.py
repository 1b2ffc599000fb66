"""The region proposal network: anchors that look like objects (Ren et al., arXiv 1506.01497)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from retable.evaluate.transfer.detection.networks.anchors import Anchors
from retable.evaluate.transfer.detection.networks.losses import proposal_losses
from retable.evaluate.transfer.detection.networks.sampling import KeyedSampler


class Proposals(RegionProposalNetwork):
    """torchvision's network with Detectron2's losses, and anchors that are chosen by keys.

    An anchor is an object from an overlap of 0.7 on, or if it is an object's best, and background
    below 0.3; 256 of an image are chosen, at most half of them objects. Proposals overlap by at
    most 0.7.

    Args:
        channels: of the maps.
        anchors: of the maps.
        before: proposals of a map before the overlapping ones are removed, in training and testing.
        after: proposals of an image afterwards.
    """

    fg_bg_sampler: KeyedSampler

    def __init__(
        self, channels: int, anchors: Anchors, before: tuple[int, int], after: tuple[int, int]
    ) -> None:
        (count,) = set(anchors.num_anchors_per_location())
        modes = ("training", "testing")
        super().__init__(
            anchors,  # type: ignore[arg-type]
            RPNHead(channels, count),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=dict(zip(modes, before, strict=True)),
            post_nms_top_n=dict(zip(modes, after, strict=True)),
            nms_thresh=0.7,
        )
        self.fg_bg_sampler = KeyedSampler(256, 0.5)

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of objectness and boxes of chosen anchors."""
        positive, negative = map(torch.cat, self.fg_bg_sampler(labels))
        chosen = torch.where(positive, 1, torch.where(negative, 0, -1))
        budget = self.fg_bg_sampler.batch_size_per_image * len(labels)
        targets = torch.cat(regression_targets)
        return proposal_losses(objectness.flatten(), pred_bbox_deltas, chosen, targets, budget)
