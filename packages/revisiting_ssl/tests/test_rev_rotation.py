"""Rotation: what is turned, and which class it is."""

import pytest
import torch

from retable.errors import UserError
from revisiting_ssl import rotation_labels, rotations

IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_class_r_is_the_image_turned_by_r_quarters_counter_clockwise() -> None:
    turned, labels = rotations(IMAGES), rotation_labels(5)
    assert turned.shape == (20, 3, 8, 8)
    assert labels.tolist() == [0, 1, 2, 3] * 5
    for row, label in enumerate(labels.tolist()):
        assert torch.equal(turned[row], torch.rot90(IMAGES[row // 4], label, (1, 2)))


def test_a_quarter_turn_takes_the_upper_right_corner_to_the_upper_left() -> None:
    corner = torch.zeros(1, 3, 4, 4)
    corner[..., 0, 3] = 1
    places = [tuple(one[0].nonzero()[0].tolist()) for one in rotations(corner)]
    assert places == [(0, 3), (0, 0), (3, 0), (3, 3)]


def test_four_quarter_turns_are_none() -> None:
    once = rotations(IMAGES)[1::4]
    twice = rotations(once)[1::4]
    assert torch.equal(twice, rotations(IMAGES)[2::4])
    assert torch.equal(rotations(rotations(twice)[1::4])[1::4], IMAGES)


def test_the_rotations_of_an_image_have_the_same_pixels() -> None:
    values = rotations(IMAGES).view(5, 4, -1).sort(dim=2).values
    assert torch.equal(values, values[:, :1].expand_as(values))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_stays(layout: torch.memory_format) -> None:
    turned = rotations(IMAGES.contiguous(memory_format=layout))
    assert turned.is_contiguous(memory_format=layout)
    assert torch.equal(turned, rotations(IMAGES))


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(UserError, match="8 x 6 pixels"):
        rotations(IMAGES[..., :6])
