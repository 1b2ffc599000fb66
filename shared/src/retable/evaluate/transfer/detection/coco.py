"""COCO's average precision of boxes and masks, by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from retable.data.transfer.objects import Objects
from retable.evaluate.transfer.detection.recipe import Detection
from retable.extras import require

NAMES = ("ap", "ap50", "ap75")
"""Metrics: the mean over overlaps of 0.5 to 0.95, and at 0.5 and 0.75."""


def check_metric() -> None:
    """Check that COCO's metric can be computed.

    Raises:
        UserError: faster-coco-eval is not installed.
    """
    require("faster_coco_eval", "detection", "COCO's average precision")


def coco_metrics(
    detections: Sequence[Detection],
    objects: Sequence[Objects],
    sizes: Sequence[tuple[int, int]],
    classes: int,
    *,
    of: Literal["bbox", "segm"] = "bbox",
) -> dict[str, float]:
    """Return `NAMES` in percent.

    Args:
        detections: of each image, with labels from 1; masks (n, H, W) bool for "segm".
        objects: of each image, with labels from 0.
        sizes: height and width of each image.
        classes: number of classes.
        of: boxes or masks.

    Raises:
        UserError: faster-coco-eval is not installed.
    """
    check_metric()
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(
        {
            "images": [
                {"id": number, "height": height, "width": width}
                for number, (height, width) in enumerate(sizes)
            ],
            "categories": [{"id": number} for number in range(classes)],
            "annotations": _annotations(objects),
        }
    )
    found = _results(detections, of)
    if not found:
        return dict.fromkeys(NAMES, 0.0)
    evaluation: Any = COCOeval_faster(truth, truth.loadRes(found), of, print_function=_silent)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {name: 100 * float(value) for name, value in zip(NAMES, evaluation.stats, strict=False)}


def _silent(*words: object) -> None:
    """Print nothing."""


def _annotations(objects: Sequence[Objects]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, of_image in enumerate(objects):
        for row in range(len(of_image)):
            box = _corner_and_sides(of_image.boxes[row])
            one = {
                "id": len(found) + 1,  # 0 would count as not found
                "image_id": number,
                "category_id": int(of_image.labels[row]),
                "bbox": box,
                "iscrowd": int(of_image.crowd[row]),
                "area": box[2] * box[3],
            }
            if of_image.masks is not None:
                one["segmentation"] = _encoded(of_image.masks[row])
                one["area"] = float(of_image.masks[row].sum())
            found.append(one)
    return found


def _results(detections: Sequence[Detection], of: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, of_image in enumerate(detections):
        for row in range(len(of_image["labels"])):
            one: dict[str, Any] = {
                "image_id": number,
                "category_id": int(of_image["labels"][row]) - 1,
                "score": float(of_image["scores"][row]),
            }
            if of == "bbox":
                one["bbox"] = _corner_and_sides(of_image["boxes"][row])
            else:
                one["segmentation"] = _encoded(of_image["masks"][row])
            found.append(one)
    return found


def _corner_and_sides(box: Tensor) -> list[float]:
    left, top, right, bottom = box.tolist()
    return [left, top, right - left, bottom - top]


def _encoded(mask: Tensor) -> Any:
    from faster_coco_eval.core import mask as codes

    return codes.encode(np.asfortranarray(mask.to("cpu", torch.uint8).numpy()))
