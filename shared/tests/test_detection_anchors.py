"""Anchors, regions of a pyramid and the choice of candidates, against hand-made values."""

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from retable.evaluate.transfer.detection.networks.anchors import Anchors, cell_anchors, grid_anchors
from retable.evaluate.transfer.detection.networks.pooling import as_regions, levels
from retable.evaluate.transfer.detection.networks.sampling import KeyedSampler


def test_an_anchor_has_its_area_and_its_ratio_of_height_to_width() -> None:
    found = cell_anchors([32.0, 50.0], [0.5, 1.0, 2.0])
    width, height = found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    assert torch.allclose(width * height, torch.tensor([32.0**2] * 3 + [50.0**2] * 3))
    assert torch.allclose(height / width, torch.tensor([0.5, 1.0, 2.0] * 2))
    assert torch.allclose(found[:, :2], -found[:, 2:])
    assert not torch.equal(found, found.round())


def test_anchors_stand_at_multiples_of_the_stride_row_by_row() -> None:
    cell = torch.tensor([[-1.0, -2.0, 1.0, 2.0]])
    found = grid_anchors(cell, 2, 3, 16)
    assert found[:, 0].add(1).tolist() == [0, 16, 32, 0, 16, 32]
    assert found[:, 1].add(2).tolist() == [0, 0, 0, 16, 16, 16]


def test_the_stride_does_not_depend_on_the_size_of_the_image() -> None:
    anchors = Anchors([[8.0]], [1.0], [16])
    # 67 = ceil(1066 / 16): dividing would give a stride of 15.
    found = anchors(
        ImageList(torch.zeros(1, 3, 800, 1066), [(800, 1066)]), [torch.zeros(1, 4, 50, 67)]
    )
    assert found[0].shape == (50 * 67, 4)
    assert float(found[0][66, 0]) == 66 * 16 - 4


def test_a_region_belongs_to_the_map_of_its_size() -> None:
    sides = torch.tensor([10.0, 111.0, 112.1, 223.0, 224.1, 449.0, 3000.0])
    boxes = torch.stack([torch.zeros(7), torch.zeros(7), sides, sides], dim=1)
    found = levels(boxes, 4, usual_size=224.0, usual_level=2)
    assert found.tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_regions_name_their_image() -> None:
    found = as_regions([torch.ones(2, 4), torch.zeros(0, 4), torch.full((1, 4), 3.0)])
    assert found.tolist() == [[0, 1, 1, 1, 1], [0, 1, 1, 1, 1], [2, 3, 3, 3, 3]]


LABELS = torch.tensor([1, 0, -1, 3, 0, 0, 2, 0, 1, 0])


def test_positives_are_at_most_their_share_and_negatives_fill_up() -> None:
    sampler = KeyedSampler(6, 0.5)
    sampler.start(7, [0])
    (positive,), (negative,) = sampler([LABELS])
    assert int(positive.sum()) == 3
    assert int(negative.sum()) == 3
    assert bool((LABELS[positive] > 0).all())
    assert bool((LABELS[negative] == 0).all())


def test_too_few_candidates_are_all_chosen() -> None:
    sampler = KeyedSampler(100, 0.5)
    sampler.start(7, [0])
    (positive,), (negative,) = sampler([LABELS])
    assert torch.equal(positive, LABELS > 0)
    assert torch.equal(negative, LABELS == 0)


def test_the_choice_depends_on_the_key_and_the_position_in_the_global_batch_alone() -> None:
    many = [torch.zeros(50), torch.zeros(50)]
    sampler = KeyedSampler(5, 0.5)
    sampler.start(3, [4, 9])
    _, both = sampler(many)
    sampler.start(3, [9])
    _, (alone,) = sampler(many[1:])
    assert torch.equal(both[1], alone)
    assert not torch.equal(both[0], both[1])
    sampler.start(4, [9])
    _, (other,) = sampler(many[1:])
    assert not torch.equal(alone, other)


@pytest.mark.parametrize("key", range(3))
def test_every_candidate_is_equally_likely(key: int) -> None:
    counts = torch.zeros(10)
    sampler = KeyedSampler(3, 0.5)
    for step in range(400):
        sampler.start(1000 * key + step, [0])
        counts += sampler([torch.zeros(10)])[1][0]
    expected = 400 * 3 / 10
    # Chi-square with 9 degrees of freedom exceeds 33.7 once in 10,000.
    assert float(((counts - expected) ** 2 / (expected * 0.7)).sum()) < 33.7
