"""Average precision on made detections: by hand, and COCO's in simple cases."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

from retable.data.transfer.objects import Objects
from retable.evaluate.transfer.detection.average_precision import (
    OVERLAPS,
    area_under_curve,
    as_objects,
    eleven_point_mean,
    outcomes_of_class,
    overlaps_of,
    voc_average_precision,
    voc_metrics,
)
from retable.evaluate.transfer.detection.coco import coco_metrics
from retable.evaluate.transfer.detection.recipe import Detection

BOX = [10.0, 10.0, 20.0, 30.0]


def detected(*rows: tuple[list[float], int, float]) -> Detection:
    return {
        "boxes": torch.tensor([row[0] for row in rows]).view(-1, 4),
        "labels": torch.tensor([row[1] for row in rows], dtype=torch.int64),
        "scores": torch.tensor([row[2] for row in rows]),
    }


def objects(*boxes: list[float], difficult: tuple[bool, ...] = ()) -> Objects:
    hard = torch.tensor(difficult or (False,) * len(boxes), dtype=torch.bool)
    return as_objects(
        torch.tensor(boxes).view(-1, 4), torch.zeros(len(boxes), dtype=torch.int64), hard
    )


def test_overlap_is_intersection_over_union() -> None:
    boxes = np.array([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    others = np.array([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    assert overlaps_of(boxes, others).tolist() == [[1 / 3, 1.0], [0.0, 0.0]]


def test_eleven_points_and_area_of_a_known_curve() -> None:
    # Two objects; right, wrong, right.
    recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])
    assert eleven_point_mean(recall, precision) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert area_under_curve(recall, precision) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_nothing_found_is_zero_and_everything_found_is_one() -> None:
    truth = [objects(BOX)]
    assert voc_average_precision([detected()], truth, 1)[0].tolist() == [0.0] * 10
    perfect = [detected((BOX, 1, 0.9))]
    assert voc_average_precision(perfect, truth, 1)[0] == pytest.approx(np.ones(10))


def test_a_second_detection_of_an_object_is_wrong() -> None:
    found = outcomes_of_class([detected((BOX, 1, 0.5), (BOX, 1, 0.9))], [objects(BOX)], 0)
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.found[:, 0].tolist() == [True, False]
    assert found.wrong[:, 0].tolist() == [False, True]


def test_a_difficult_object_is_neither_found_nor_missed() -> None:
    truth = objects(BOX, [50.0, 50.0, 60.0, 60.0], difficult=(True, False))
    found = outcomes_of_class([detected((BOX, 1, 0.9), (BOX, 1, 0.8))], [truth], 0)
    assert found.objects == 1
    assert not found.found.any()
    assert not found.wrong.any()


def test_an_overlap_must_exceed_the_threshold() -> None:
    half = [10.0, 10.0, 20.0, 20.0]  # half of BOX
    found = outcomes_of_class([detected((half, 1, 0.9))], [objects(BOX)], 0)
    assert not found.found.any()
    more = [10.0, 10.0, 20.0, 26.0]  # 0.8 of it
    found = outcomes_of_class([detected((more, 1, 0.9))], [objects(BOX)], 0)
    assert found.found[0].tolist() == [overlap < 0.8 for overlap in OVERLAPS]


def test_a_class_without_objects_does_not_count() -> None:
    found = voc_average_precision([detected((BOX, 1, 0.9))], [objects(BOX)], 3)
    assert np.isnan(found[1:]).all()
    assert voc_metrics(found)["ap"] == pytest.approx(100)


def test_other_classes_and_images_do_not_mix() -> None:
    truth = [objects(BOX), objects()]
    elsewhere = [detected(), detected((BOX, 1, 0.9))]
    assert voc_average_precision(elsewhere, truth, 1)[0].tolist() == [0.0] * 10
    other = [detected((BOX, 2, 0.9)), detected()]
    assert voc_average_precision(other, truth, 2)[0].tolist() == [0.0] * 10


def test_coco_s_metric_of_perfect_missing_and_half_right_detections() -> None:
    truth, sizes = [objects(BOX), objects()], [(100, 100)] * 2
    perfect = [detected((BOX, 1, 0.9)), detected()]
    assert coco_metrics(perfect, truth, sizes, 1)["ap"] == pytest.approx(100)
    assert coco_metrics([detected(), detected()], truth, sizes, 1)["ap"] == 0
    more = [10.0, 10.0, 20.0, 26.0]  # overlap 0.8: found at 0.50 to 0.80
    found = coco_metrics([detected((more, 1, 0.9)), detected()], truth, sizes, 1)
    assert found["ap"] == pytest.approx(70)
    assert found["ap75"] == pytest.approx(100)


def test_coco_s_metric_of_masks_compares_masks() -> None:
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, 10:30, 10:20] = True
    truth = [replace(objects(BOX), masks=mask)]
    found = [detected((BOX, 1, 0.9)) | {"masks": mask}]
    assert coco_metrics(found, truth, [(40, 40)], 1, of="segm")["ap"] == pytest.approx(100)
    half = mask.clone()
    half[0, 20:] = False  # overlap 1/2
    found = [detected((BOX, 1, 0.9)) | {"masks": half}]
    assert coco_metrics(found, truth, [(40, 40)], 1, of="segm")["ap"] == pytest.approx(10)


def test_crowds_are_neither_found_nor_missed_in_coco_s_metric() -> None:
    crowd = replace(objects(BOX, [50.0, 50.0, 60.0, 60.0]), crowd=torch.tensor([True, False]))
    inside = [12.0, 12.0, 18.0, 20.0]
    rows = detected((inside, 1, 0.9), ([50.0, 50.0, 60.0, 60.0], 1, 0.8))
    assert coco_metrics([rows], [crowd], [(100, 100)], 1)["ap"] == pytest.approx(100)


def crowded_images() -> tuple[list[Objects], list[Detection]]:
    """Draw objects of 20 images, crowds among them, and detections near them and elsewhere."""
    generator = torch.Generator().manual_seed(3)

    def boxes(count: int) -> torch.Tensor:
        corners = torch.rand(count, 2, generator=generator) * 60
        return torch.cat(
            [corners, corners + 10 + 30 * torch.rand(count, 2, generator=generator)], 1
        )

    truth, found = [], []
    for _ in range(20):
        count = int(torch.randint(0, 5, (), generator=generator))
        placed, labels = boxes(count), torch.randint(0, 3, (count,), generator=generator)
        crowd = torch.rand(count, generator=generator) < 0.2
        truth.append(replace(as_objects(placed, labels), crowd=crowd))
        near = placed + 3 * torch.randn(count, 4, generator=generator)
        everywhere = torch.cat([near, boxes(3)])
        others = torch.randint(0, 3, (3,), generator=generator)
        one: Detection = {
            "boxes": everywhere,
            "labels": torch.cat([labels, others]) + 1,
            "scores": torch.rand(len(everywhere), generator=generator),
        }
        found.append(one)
    return truth, found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_coco_s_metric_is_that_of_pycocotools(capsys: pytest.CaptureFixture[str]) -> None:
    coco: Any = import_module("pycocotools.coco")
    cocoeval: Any = import_module("pycocotools.cocoeval")
    truth, found = crowded_images()

    def plain(box: torch.Tensor) -> list[float]:
        left, top, right, bottom = box.tolist()
        return [left, top, right - left, bottom - top]

    annotations = [
        {
            "image_id": image,
            "category_id": int(one.labels[row]),
            "bbox": plain(one.boxes[row]),
            "area": plain(one.boxes[row])[2] * plain(one.boxes[row])[3],
            "iscrowd": int(one.crowd[row]),
        }
        for image, one in enumerate(truth)
        for row in range(len(one))
    ]
    theirs = coco.COCO()
    theirs.dataset = {
        "images": [{"id": image} for image in range(len(truth))],
        "categories": [{"id": label} for label in range(3)],
        "annotations": [{**one, "id": number} for number, one in enumerate(annotations, start=1)],
    }
    theirs.createIndex()
    results = [
        {
            "image_id": image,
            "category_id": int(one["labels"][row]) - 1,
            "bbox": plain(one["boxes"][row]),
            "score": float(one["scores"][row]),
        }
        for image, one in enumerate(found)
        for row in range(len(one["labels"]))
    ]
    evaluation = cocoeval.COCOeval(theirs, theirs.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    expected = [100 * value for value in evaluation.stats[:3]]
    capsys.readouterr()
    ours = coco_metrics(found, truth, [(100, 100)] * len(truth), 3)
    assert list(ours.values()) == pytest.approx(expected, abs=1e-6)
    assert expected[1] > 10
