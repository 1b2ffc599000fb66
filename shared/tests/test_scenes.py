"""Scenes: what the images show is what the objects and classes of pixels say."""

import pytest
import torch

from retable.data.shapes.scenes import Scenes, boxes_of
from retable.data.sources import open_source
from retable.errors import UserError

SCENES = Scenes(30, size=48, classes=8)


def test_a_scene_depends_on_its_index_and_seed_alone() -> None:
    few, other = Scenes(3, size=48, classes=8), Scenes(3, size=48, classes=8, seed=1)
    for index in range(3):
        assert torch.equal(few.image(index), SCENES.image(index))
        assert torch.equal(few.objects(index).boxes, SCENES.objects(index).boxes)
        assert not torch.equal(few.image(index), other.image(index))


def test_splits_are_disjoint() -> None:
    test = Scenes(3, size=48, classes=8, split="test")
    assert not any(torch.equal(test.image(index), SCENES.image(index)) for index in range(3))


def test_boxes_enclose_what_is_seen_of_objects_and_pixels_belong_to_one() -> None:
    for index in range(len(SCENES)):
        objects = SCENES.objects(index)
        assert len(objects) >= 1
        assert objects.masks is not None
        assert int(objects.masks.sum(0).max()) <= 1
        for box, mask in zip(objects.boxes.long().tolist(), objects.masks, strict=True):
            inside = mask[box[1] : box[3], box[0] : box[2]]
            assert int(inside.sum()) == int(mask.sum()) > 0
            assert all(
                bool(edge.any()) for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1])
            )


def test_classes_of_pixels_are_those_of_the_objects() -> None:
    for index in range(5):
        objects, labels = SCENES.objects(index), SCENES.layer(index, "semantic")[0]
        assert objects.masks is not None
        for mask, label in zip(objects.masks, objects.labels.tolist(), strict=True):
            assert set(labels[mask].tolist()) == {label + 1}
        assert bool((labels[~objects.masks.any(0)] == 0).all())


def test_an_object_differs_from_the_ground_around_it() -> None:
    distances = []
    for index in range(len(SCENES)):
        image, objects = SCENES.image(index).float(), SCENES.objects(index)
        assert objects.masks is not None
        ground = image[:, ~objects.masks.any(0)].median(dim=1).values
        distances += [float((image[:, mask].mean(1) - ground).norm()) for mask in objects.masks]
    assert min(distances) > 30


def test_every_class_and_number_of_figures_occurs() -> None:
    many = Scenes(200, size=32, classes=4)
    labels = torch.cat([many.objects(index).labels for index in range(200)])
    assert set(labels.tolist()) == {0, 1, 2, 3}
    assert {len(many.objects(index)) for index in range(200)} >= {1, 2, 3}


def test_the_data_set_is_opened_by_its_name() -> None:
    source = open_source("shapes-scenes?count=5&size=32&classes=3", "train")
    assert len(source) == 5
    assert source.class_names == SCENES.class_names[:3]
    with pytest.raises(UserError, match="`size` and `classes` of scenes must be at least 32"):
        Scenes(1, size=16)


def test_the_box_of_a_mask_ends_beyond_its_last_pixel() -> None:
    masks = torch.zeros(2, 5, 6, dtype=torch.bool)
    masks[0, 1:3, 2] = True
    assert boxes_of(masks).tolist() == [[2, 1, 3, 3], [0, 0, 0, 0]]
