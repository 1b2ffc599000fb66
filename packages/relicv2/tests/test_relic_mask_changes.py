from collections.abc import Callable
from importlib.metadata import entry_points

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from relicv2.mask_changes import (
    bounding_boxes,
    centered_rectangles,
    random_pixels,
    random_rectangles,
    with_added,
    with_removed,
)
from retable.errors import UserError
from retable.random import derive_key
from retable.views.masks import ENTRY_POINTS

DRAWS, PLACES = derive_key(0, "mask changes"), torch.arange(40) * 7


def masks(count: int = 40, height: int = 24, width: int = 36) -> Tensor:
    """A filled ellipse in a random place for each image."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    top, left, radius = torch.rand(3, count, 1, 1, generator=generator)
    distance = ((rows - top * height) / height) ** 2 + ((columns - left * width) / width) ** 2
    inside: Tensor = distance < (0.2 + 0.2 * radius) ** 2
    return inside


@pytest.mark.parametrize("area", [0.0, 0.1, 0.5, 1.0])
def test_random_pixels_are_foreground_with_the_given_probability(area: float) -> None:
    found = random_pixels(masks(), 3, area=area)
    assert float(found.float().mean()) == pytest.approx(area, abs=0.01)


@given(area=st.floats(0, 1), key=st.integers(0, 1000))
def test_rectangles_have_the_area_and_lie_in_the_image(area: float, key: int) -> None:
    for found in (
        random_rectangles(masks(3), key, area=area),
        centered_rectangles(masks(3), area=area),
    ):
        assert torch.equal(found, bounding_boxes(found))
        height, width = found.any(dim=2).sum(dim=1), found.any(dim=1).sum(dim=1)
        for side, full in ((height, 24), (width, 36)):
            assert float((side - area**0.5 * full).abs().max()) <= 0.5 + 1e-6  # whole pixels


def test_random_rectangles_reach_every_place() -> None:
    found = random_rectangles(masks(2000), 0, area=0.25)
    tops = found.any(dim=2).int().argmax(dim=1)
    lefts = found.any(dim=1).int().argmax(dim=1)
    assert set(tops.tolist()) == set(range(24 - 12 + 1))
    assert set(lefts.tolist()) == set(range(36 - 18 + 1))


def test_draws_depend_on_positions_alone() -> None:
    whole = masks(8)
    for corrupt in (random_pixels, random_rectangles):
        at_once = corrupt(whole, 5, area=0.3)
        halves = [corrupt(whole[p], 5, p, area=0.3) for p in torch.arange(8).chunk(2)]
        assert torch.equal(at_once, torch.cat(halves))
        assert not torch.equal(at_once, corrupt(whole, 6, area=0.3))


def test_a_centered_rectangle_is_added_or_removed_whose_area_is_that_of_the_foreground() -> None:
    whole = masks()
    added, removed = with_added(whole, share=1.0), with_removed(whole, share=1.0)
    rectangle = added & ~removed  # either way it covers the rectangle
    assert (whole & ~added).sum() == 0
    assert (removed & ~whole).sum() == 0
    assert torch.equal(added, whole | rectangle)
    assert torch.equal(removed, whole & ~rectangle)
    areas = whole.float().mean(dim=(1, 2))
    boxes = bounding_boxes(rectangle)
    for of_line in (boxes.any(dim=2), boxes.any(dim=1)):
        before, after = (line.int().argmax(dim=1) for line in (of_line, of_line.flip(1)))
        assert ((after - before) <= 1).all()
        assert ((after - before) >= 0).all()
    for lines, full in ((boxes.any(dim=2), 24), (boxes.any(dim=1), 36)):
        assert float((lines.sum(dim=1) - areas.sqrt() * full).abs().max()) <= 0.5 + 1e-4
    for change in (with_added, with_removed):
        assert torch.equal(change(whole, share=0.0), whole)
    assert with_added(whole, share=100.0).all()
    assert not with_removed(whole, share=100.0).any()


def test_bounding_boxes_are_the_smallest_rectangles() -> None:
    for mask, box in zip(masks(), bounding_boxes(masks()), strict=True):
        rows, columns = (mask.any(dim=1 - dim).nonzero()[:, 0] for dim in (0, 1))
        expected = torch.zeros_like(mask)
        expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        assert torch.equal(box, expected)
    assert not bounding_boxes(torch.zeros(1, 4, 4, dtype=torch.bool)).any()


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("pixels", 0.3, lambda m: random_pixels(m, DRAWS, PLACES, area=0.3)),
        ("rectangle", 0.3, lambda m: random_rectangles(m, DRAWS, PLACES, area=0.3)),
        ("centered", 0.3, lambda m: centered_rectangles(m, area=0.3)),
        ("added", 0.3, lambda m: with_added(m, share=0.3)),
        ("removed", 0.3, lambda m: with_removed(m, share=0.3)),
        ("box", 0.0, bounding_boxes),
    ],
)
def test_recipes_find_a_change_by_its_name(
    name: str, number: float, expected: Callable[[Tensor], Tensor]
) -> None:
    (entry,) = entry_points(group=ENTRY_POINTS, name=name)
    assert torch.equal(entry.load()(masks(), PLACES, number), expected(masks()))


def test_areas_beyond_the_image_are_refused() -> None:
    with pytest.raises(UserError, match=r"`area` must be a share from 0 to 1, got 1\.5"):
        random_pixels(masks(), 0, area=1.5)
    with pytest.raises(UserError, match="`share` must be at least 0"):
        with_added(masks(), share=-1.0)
