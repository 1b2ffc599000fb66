"""Classes, boxes and masks of proposed regions (arXiv 1506.01497 and 1703.06870)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference

from retable import distributed
from retable.evaluate.transfer.detection.networks.losses import (
    mask_loss,
    mask_targets,
    region_losses,
)
from retable.evaluate.transfer.detection.networks.sampling import KeyedSampler
from retable.evaluate.transfer.detection.recipe import Detection, Target


class BoxPredictor(nn.Module):
    """Scores and box codes of K classes and the background, from vectors or maps of regions."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(channels, classes + 1)
        self.bbox_pred = nn.Linear(channels, 4 * (classes + 1))
        for layer, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map (M, C) or (M, C, S, S) to scores (M, K + 1) and codes (M, 4 (K + 1))."""
        if features.dim() == 4:
            features = features.mean(dim=(2, 3))
        return self.cls_score(features), self.bbox_pred(features)


class MaskPredictor(nn.Sequential):
    """A mask of each class, of twice the side of a region's map."""

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        upsampling = nn.ConvTranspose2d(channels, hidden, 2, stride=2)
        scores = nn.Conv2d(hidden, classes + 1, 1)
        super().__init__(upsampling, nn.ReLU(inplace=True), scores)
        nn.init.kaiming_normal_(upsampling.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(scores.weight, std=0.001)
        for layer in (upsampling, scores):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


class Regions(RoIHeads):
    """torchvision's heads of regions with Detectron2's losses and regions that are chosen by keys.

    A region is an object from an overlap of 0.5 on; 512 of an image are chosen, at most a quarter
    of them objects, and the objects' own boxes are among them. Of what is found, scores are above
    0.05, boxes of a class overlap by at most 0.5, and 100 are kept.

    Args:
        pool: features and regions -> maps of the regions.
        head: maps -> what boxes and classes are predicted from.
        channels: of the head's output.
        classes: K.
        mask_pool: maps for masks; None: masks are predicted from the head's output, which then is
            computed once for both, so that its batch norm sees all regions.
        mask_head: maps -> what masks are predicted from.
        mask_predictor: None: no masks.
    """

    fg_bg_sampler: KeyedSampler

    def __init__(
        self,
        pool: nn.Module,
        head: nn.Module,
        channels: int,
        classes: int,
        *,
        mask_pool: nn.Module | None = None,
        mask_head: nn.Module | None = None,
        mask_predictor: nn.Module | None = None,
        chosen: int = 512,
    ) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            pool,
            head,
            BoxPredictor(channels, classes),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=chosen,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
            mask_roi_pool=mask_pool,
            mask_head=mask_head,
            mask_predictor=mask_predictor,
        )
        self.fg_bg_sampler = KeyedSampler(chosen, 0.25)

    def has_mask(self) -> bool:
        """Return whether masks are predicted."""
        return self.mask_predictor is not None

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Detection], dict[str, Tensor]]:
        """Return what is found, or the losses in training."""
        if self.training:
            assert targets is not None
            return [], self._losses(features, proposals, image_shapes, targets)
        maps = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        class_scores, codes = self.box_predictor(maps)
        boxes, scores, labels = self.postprocess_detections(
            class_scores, codes, proposals, image_shapes
        )
        found = [
            {"boxes": b, "labels": n, "scores": s}
            for b, n, s in zip(boxes, labels, scores, strict=True)
        ]
        if self.has_mask():
            predicted = self._masks_of(features, boxes, image_shapes)
            for one, mask in zip(found, maskrcnn_inference(predicted, labels), strict=True):
                one["masks"] = mask
        return found, {}

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        shapes: list[tuple[int, int]],
        targets: list[Target],
    ) -> dict[str, Tensor]:
        proposals, matched, labels, codes = self.select_training_samples(proposals, targets)
        maps = self.box_head(self.box_roi_pool(features, proposals, shapes))
        every = torch.cat(labels)
        class_scores, predicted_codes = self.box_predictor(maps)
        of_classes, of_boxes = region_losses(
            class_scores,
            predicted_codes,
            every,
            torch.cat(codes),
            distributed.mean_count(every >= 0),
        )
        losses = {"loss_classifier": of_classes, "loss_box_reg": of_boxes}
        if self.has_mask():
            objects = [of_image > 0 for of_image in labels]
            own = [p[kept] for p, kept in zip(proposals, objects, strict=True)]
            if self.mask_roi_pool is None:
                predicted = self.mask_predictor(maps[torch.cat(objects)])
            else:
                predicted = self._masks_of(features, own, shapes)
            wanted = [
                mask_targets(target["masks"], boxes, of_image[kept], predicted.shape[-1])
                for target, boxes, of_image, kept in zip(
                    targets, own, matched, objects, strict=True
                )
            ]
            losses["loss_mask"] = mask_loss(
                predicted, every[every > 0], torch.cat(wanted), distributed.mean_count(every > 0)
            )
        return losses

    def _masks_of(
        self,
        features: dict[str, Tensor],
        boxes: list[Tensor],
        shapes: list[tuple[int, int]],
    ) -> Tensor:
        """Return the logits of masks of boxes: (M, K + 1, S, S)."""
        shared = self.mask_roi_pool is None
        pool, head = (
            (self.box_roi_pool, self.box_head) if shared else (self.mask_roi_pool, self.mask_head)
        )
        return self.mask_predictor(head(pool(features, boxes, shapes)))  # type: ignore[no-any-return]
