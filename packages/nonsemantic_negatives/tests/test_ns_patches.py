import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from nonsemantic_negatives import patch_negatives
from nonsemantic_negatives.patches import PatchDraws, assemble_patches, draw_patches
from retable import distributed
from retable.errors import UserError
from retable.testing import run_processes


def numbered(count: int, channels: int, height: int, width: int) -> Tensor:
    """Return images whose values are all different."""
    size = count * channels * height * width
    return torch.arange(size, dtype=torch.float64).view(count, channels, height, width)


def assembled_one_by_one(images: Tensor, draws: PatchDraws) -> Tensor:
    """Source: Ge et al., section 3 and table 6, patch by patch on a canvas that is then cropped."""
    results = []
    height, width = images.shape[2:]
    for number, image in enumerate(images):
        side = int(draws.side[number])
        rows, columns = math.ceil(height / side), math.ceil(width / side)
        canvas = image.new_empty(image.shape[0], rows * side, columns * side)
        for row in range(rows):
            for column in range(columns):
                top = int(draws.top[number, row, column])
                left = int(draws.left[number, row, column])
                patch = image[:, top : top + side, left : left + side]
                if draws.turns is not None:
                    patch = torch.rot90(patch, int(draws.turns[number, row, column]), (1, 2))
                if draws.upside_down is not None and draws.upside_down[number, row, column]:
                    patch = patch.flip(1)
                if draws.mirrored is not None and draws.mirrored[number, row, column]:
                    patch = patch.flip(2)
                down, across = row * side, column * side
                canvas[:, down : down + side, across : across + side] = patch
        results.append(canvas[:, :height, :width])
    return torch.stack(results)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 13),
    st.integers(1, 13),
    st.data(),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_it_equals_patches_pasted_one_by_one(
    count: int,
    channels: int,
    height: int,
    width: int,
    data: st.DataObject,
    options: tuple[bool, bool, bool],
) -> None:
    high = data.draw(st.integers(1, min(height, width)))
    low = data.draw(st.integers(1, high))
    images = numbered(count, channels, height, width)
    mirror, upside_down, turn = options
    draws = draw_patches(
        data.draw(st.integers(0, 2**62)),
        torch.arange(count),
        (height, width),
        low=low,
        high=high,
        mirror=mirror,
        upside_down=upside_down,
        turn=turn,
    )
    assert torch.equal(assemble_patches(images, draws), assembled_one_by_one(images, draws))


def test_every_cell_is_a_contiguous_crop_of_its_own_image() -> None:
    images = numbered(6, 3, 20, 20)
    negatives = patch_negatives(images, 5, low=6, high=6)
    for image, negative in zip(images, negatives, strict=True):
        crops = image.unfold(1, 6, 1).unfold(2, 6, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        for row in range(0, 20, 6):
            for column in range(0, 20, 6):
                cell = negative[:, row : row + 6, column : column + 6]
                same = crops[:, :, : cell.shape[1], : cell.shape[2]] == cell
                assert same.flatten(1).all(dim=1).any(), (row, column)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_values_shape_and_type_are_the_images_own(dtype: torch.dtype) -> None:
    images = (torch.rand(4, 5, 17, 19) * 255).to(dtype)
    negatives = patch_negatives(images, 1, low=3, high=9)
    assert negatives.shape == images.shape
    assert negatives.dtype == dtype
    for image, negative in zip(images, negatives, strict=True):
        pixels = {tuple(pixel) for pixel in image.flatten(1).T.tolist()}
        assert {tuple(pixel) for pixel in negative.flatten(1).T.tolist()} <= pixels


def test_one_patch_of_the_whole_image_is_the_image() -> None:
    images = numbered(3, 2, 9, 9)
    assert torch.equal(patch_negatives(images, 3, low=9, high=9), images)


def test_a_constant_image_stays_constant() -> None:
    images = torch.tensor([0.3, -2.0]).view(2, 1, 1, 1).expand(2, 3, 11, 11).contiguous()
    assert torch.equal(patch_negatives(images, 3, low=2, high=5), images)


def test_patches_of_one_pixel_are_pixels_drawn_with_replacement() -> None:
    negatives = patch_negatives(numbered(1, 1, 30, 30), 3, low=1, high=1)
    # Of n draws with replacement from n pixels 1 - 1/e are different.
    assert len(set(negatives.flatten().tolist())) / 900 == pytest.approx(1 - math.exp(-1), abs=0.04)


def test_sides_are_uniform_and_include_both_bounds() -> None:
    draws = draw_patches(7, torch.arange(28_000), (24, 24), low=16, high=22)
    counts = torch.bincount(draws.side - 16)
    assert len(counts) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 0.001


@pytest.mark.parametrize("axis", ["top", "left"])
def test_offsets_are_uniform_up_to_the_last_place(axis: str) -> None:
    draws = draw_patches(7, torch.arange(4000), (20, 20), low=8, high=8)
    offsets = getattr(draws, axis)
    assert stats.chisquare(torch.bincount(offsets.flatten(), minlength=13).numpy()).pvalue > 0.001
    assert offsets.max() == 20 - 8


def test_offsets_of_patches_and_of_axes_are_independent() -> None:
    draws = draw_patches(7, torch.arange(4000), (20, 20), low=8, high=8)
    pairs = [
        (draws.top[:, 0, 0], draws.left[:, 0, 0]),
        (draws.top[:, 0, 0], draws.top[:, 0, 1]),
        (draws.left[:, 0, 0], draws.left[:, 1, 0]),
        (draws.top[:-1, 0, 0], draws.top[1:, 0, 0]),
    ]
    for one, other in pairs:
        together = torch.bincount(one * 13 + other, minlength=169)
        assert stats.chisquare(together.numpy()).pvalue > 0.001


def test_flips_and_turns_are_drawn_for_each_patch() -> None:
    draws = draw_patches(
        7, torch.arange(4000), (20, 20), low=8, high=8, mirror=True, upside_down=True, turn=True
    )
    assert draws.turns is not None
    assert draws.mirrored is not None
    assert draws.upside_down is not None
    kinds = draws.turns * 4 + draws.mirrored * 2 + draws.upside_down * 1
    counts = torch.bincount(kinds.flatten(), minlength=16)
    assert stats.chisquare(counts.numpy()).pvalue > 0.001
    assert (draws.turns[:, 0, 0] != draws.turns[:, 0, 1]).any()


def test_flips_and_turns_leave_sides_and_places_as_they_are() -> None:
    plain = draw_patches(7, torch.arange(5), (20, 20), low=3, high=8)
    turned = draw_patches(7, torch.arange(5), (20, 20), low=3, high=8, turn=True, mirror=True)
    for field in ("side", "top", "left"):
        assert torch.equal(getattr(plain, field), getattr(turned, field))


def test_equal_keys_give_equal_negatives_and_other_keys_others() -> None:
    images = numbered(8, 3, 16, 16)
    first, again, other = (patch_negatives(images, key, low=2, high=9) for key in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sides_differ_within_a_batch() -> None:
    sides = draw_patches(1, torch.arange(64), (32, 32), low=5, high=12).side
    assert set(sides.tolist()) == set(range(5, 13))


def share_of_negatives() -> Tensor:
    images = numbered(8, 3, 16, 16)
    rows = distributed.own_slice(torch.arange(8))
    return patch_negatives(images[rows], 4, rows, low=2, high=9)


def test_negatives_do_not_depend_on_the_number_of_processes() -> None:
    whole = share_of_negatives()
    assert torch.equal(torch.cat(run_processes(share_of_negatives, 2)), whole)


@pytest.mark.parametrize(("low", "high"), [(0, 4), (5, 4), (-1, -1)])
def test_a_range_that_is_none_is_refused(low: int, high: int) -> None:
    with pytest.raises(UserError, match="`low` and `high` must be at least 1 and in this order"):
        patch_negatives(numbered(1, 3, 8, 8), 0, low=low, high=high)


def test_patches_larger_than_the_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"`high` must be at most the shorter side.* 8 pixels"):
        patch_negatives(numbered(1, 3, 8, 12), 0, low=4, high=9)
