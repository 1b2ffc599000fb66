"""Average precision as the PASCAL VOC challenges define it, averaged over overlaps as in COCO.

This is what MoCo and those who compare with it print for VOC: ten overlaps from 0.50 to 0.95, but
the challenge's rules for each of them. COCO's own metric gives other numbers for the same boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retable.data.transfer.objects import Objects
from retable.evaluate.transfer.detection.recipe import Detection

OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Least overlaps of a box that counts as found."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Outcomes(NamedTuple):
    """What became of the n detections of a class, at each of the T overlaps, and its objects.

    Attributes:
        scores: (n,).
        found: (n, T) whether a detection is the first of its object.
        wrong: (n, T) whether it is of none, or a second one; neither, if of a difficult object.
        objects: number of objects that are not difficult.
    """

    scores: Floats
    found: Bools
    wrong: Bools
    objects: int


def voc_average_precision(
    detections: Sequence[Detection],
    objects: Sequence[Objects],
    classes: int,
    *,
    eleven_points: bool = True,
) -> Floats:
    """Return the average precision of each class at each of `OVERLAPS`: (K, T), in [0, 1].

    A class without objects has NaN. As in Detectron2's evaluator, scores are rounded to three
    decimals and boxes to one.

    Args:
        detections: of each image, with labels from 1.
        objects: of each image, with labels from 0.
        classes: K.
        eleven_points: mean of the best precision from recall 0, 0.1, ..., 1 on (the challenge of
            2007), or the area under the curve (from 2010 on).
    """
    measure = eleven_point_mean if eleven_points else area_under_curve
    found = np.full((classes, len(OVERLAPS)), np.nan)
    for label in range(classes):
        outcomes = outcomes_of_class(detections, objects, label)
        if not outcomes.objects:
            continue
        order = np.argsort(-outcomes.scores, kind="stable")
        hits = outcomes.found[order].cumsum(axis=0)
        misses = outcomes.wrong[order].cumsum(axis=0)
        recall = hits / outcomes.objects
        precision = hits / np.maximum(hits + misses, np.finfo(np.float64).eps)
        columns = zip(recall.T, precision.T, strict=True)
        found[label] = [measure(*column) for column in columns]
    return found


def outcomes_of_class(
    detections: Sequence[Detection], objects: Sequence[Objects], label: int
) -> Outcomes:
    """Match the detections of a class with its objects, in each image by falling score."""
    scores, found, wrong, count = [np.zeros(0)], [_none(0)], [_none(0)], 0
    for of_image, truth in zip(detections, objects, strict=True):
        own = of_image["labels"].cpu() == label + 1
        sure = np.round(of_image["scores"].cpu()[own].double().numpy(), 3)
        boxes = np.round(of_image["boxes"].cpu()[own].double().numpy(), 1)
        order = np.argsort(-sure, kind="stable")
        wanted = truth.where((truth.labels == label) & ~truth.crowd)
        difficult = wanted.difficult.numpy()
        count += int((~difficult).sum())
        overlaps = overlaps_of(boxes[order], wanted.boxes.double().numpy())
        hits, misses = match(overlaps, difficult)
        scores.append(sure[order])
        found.append(hits)
        wrong.append(misses)
    return Outcomes(
        np.concatenate(scores), np.concatenate(found), np.concatenate(wrong), objects=count
    )


def _none(rows: int) -> Bools:
    return np.zeros((rows, len(OVERLAPS)), dtype=bool)


def match(overlaps: Floats, difficult: Bools) -> tuple[Bools, Bools]:
    """Return which detections are right and which are wrong, each (n, T).

    Args:
        overlaps: (n, m) with the objects of their class and image, detections by falling score.
        difficult: (m,).
    """
    rows, columns = overlaps.shape
    found, wrong = _none(rows), _none(rows)
    if not columns:
        wrong[:] = True
        return found, wrong
    taken = np.zeros((columns, len(OVERLAPS)), dtype=bool)
    for row, best in enumerate(overlaps.argmax(axis=1)):
        meets = overlaps[row, best] > np.array(OVERLAPS)
        if difficult[best]:
            wrong[row] = ~meets
            continue
        found[row] = meets & ~taken[best]
        wrong[row] = ~found[row]
        taken[best] |= meets
    return found, wrong


def overlaps_of(boxes: Floats, others: Floats) -> Floats:
    """Return intersection over union (n, m) of boxes (n, 4) and (m, 4).

    The challenge's boxes are pixels from 1 on and contain both ends, and its sides are one more
    than the difference. Ours end one beyond the last pixel (`Objects`), which is the same.
    """
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    areas = [(of[:, 2:] - of[:, :2]).prod(axis=1) for of in (boxes, others)]
    union = areas[0][:, None] + areas[1][None] - shared
    found: Floats = shared / np.maximum(union, np.finfo(np.float64).eps)
    return found


def eleven_point_mean(recall: Floats, precision: Floats) -> float:
    """Return the mean of the best precision from each of eleven recalls on."""
    points = np.arange(0.0, 1.1, 0.1)
    best = [precision[recall >= point].max(initial=0.0) for point in points]
    return float(np.mean(best))


def area_under_curve(recall: Floats, precision: Floats) -> float:
    """Return the area below the precision that is nowhere higher further on."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * envelope[1:]).sum())


def voc_metrics(precisions: Floats) -> dict[str, float]:
    """Return AP, AP50 and AP75 in percent from `voc_average_precision`."""
    means = 100 * np.nanmean(precisions, axis=0)
    at = dict(zip(OVERLAPS, means, strict=True))
    return {"ap": float(means.mean()), "ap50": float(at[0.5]), "ap75": float(at[0.75])}


def as_objects(boxes: Tensor, labels: Tensor, difficult: Tensor | None = None) -> Objects:
    """Return objects without masks."""
    none = torch.zeros(len(labels), dtype=torch.bool)
    return Objects(boxes, labels, None, none if difficult is None else difficult, none)
