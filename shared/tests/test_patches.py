"""Patches are squares of their own cells, drawn or in the middle, and standardised one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retable.errors import UserError
from retable.nn.patches import PatchGrid, cut_patches, standardise
from retable.random import integers, uniform


def coordinates(count: int, side: int) -> Tensor:
    """Images (count, 3, side, side) whose channels hold image, row and column."""
    planes = torch.meshgrid(*(torch.arange(float(n)) for n in (count, side, side)), indexing="ij")
    return torch.stack(planes, dim=1)


def pictures(count: int, side: int) -> Tensor:
    return uniform(side, torch.arange(count * 3 * side * side).view(count, 3, side, side))


def corners(patches: Tensor) -> list[list[tuple[int, int]]]:
    """Read the patches' first rows and columns off images that hold their own coordinates."""
    return [[(int(top), int(left)) for top, left in image] for image in patches[:, :, 1:, 0, 0]]


def test_the_papers_patches_are_9_of_64_pixels_that_may_move_by_21() -> None:
    grid = PatchGrid()
    assert (grid.side, grid.count) == (255, 9)
    patches = cut_patches(coordinates(40, 255), grid, 0, torch.arange(40))
    assert patches.shape == (40, 9, 3, 64, 64)
    raw = PatchGrid(standardise=False)
    places = corners(cut_patches(coordinates(40, 255), raw, 0, torch.arange(40)))
    shifts = [place % 85 for image in places for corner in image for place in corner]
    assert sorted(set(shifts)) == list(range(22))


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 4),
    cell=st.integers(1, 9),
    data=st.data(),
    rng_key=st.none() | st.integers(-(2**63), 2**63 - 1),
)
def test_each_patch_is_a_square_of_its_own_cell(
    rows: int, cell: int, rng_key: int | None, data: Any
) -> None:
    # Source: definition, read off images that hold their own coordinates.
    side = data.draw(st.integers(1, cell))
    grid = PatchGrid(rows, cell, side, standardise=False)
    images = coordinates(3, grid.side)
    patches = cut_patches(images, grid, rng_key, torch.arange(3))
    assert patches.shape == (3, grid.count, 3, side, side)
    assert patches.is_contiguous()
    for image, of_image in enumerate(corners(patches)):
        for number, (top, left) in enumerate(of_image):
            expected = images[image, :, top : top + side, left : left + side]
            assert torch.equal(patches[image, number], expected)
            for place, first in ((top, number // rows * cell), (left, number % rows * cell)):
                assert first <= place <= first + cell - side


def test_patches_are_those_that_a_loop_cuts_where_the_key_says() -> None:
    # Source: two draws for each image and cell, row and column, counted by the image's place.
    grid = PatchGrid(cell=11, patch=8, standardise=False)
    images, positions = pictures(4, 33), torch.tensor([3, 0, 70, 12])
    patches = cut_patches(images, grid, 9, positions)
    for row, position in enumerate(positions.tolist()):
        for number in range(9):
            counters = torch.tensor([(position * 9 + number) * 2, (position * 9 + number) * 2 + 1])
            down, right = integers(9, counters, 4).tolist()
            top, left = number // 3 * 11 + down, number % 3 * 11 + right
            assert torch.equal(patches[row, number], images[row, :, top : top + 8, left : left + 8])


@pytest.mark.parametrize(
    ("grid", "offset"),
    [
        (PatchGrid(), 10),
        (PatchGrid(cell=64, patch=64), 0),
        (PatchGrid(cell=16, patch=12), 2),
        (PatchGrid(cell=21, patch=16), 2),
    ],
)
def test_without_a_key_patches_lie_in_the_middle_of_their_cells(
    grid: PatchGrid, offset: int
) -> None:
    # Source: (85 - 64) // 2 = 10, and likewise.
    raw = PatchGrid(grid.grid, grid.cell, grid.patch, standardise=False)
    expected = [
        (row * grid.cell + offset, column * grid.cell + offset)
        for row in range(3)
        for column in range(3)
    ]
    assert corners(cut_patches(coordinates(2, grid.side), raw)) == [expected] * 2
    again = cut_patches(coordinates(2, grid.side), grid)
    assert torch.equal(cut_patches(coordinates(2, grid.side), grid), again)


def test_patches_do_not_overlap() -> None:
    # Source: definition.
    grid = PatchGrid(cell=11, patch=8, standardise=False)
    for image in corners(cut_patches(coordinates(50, 33), grid, 4, torch.arange(50))):
        for (top, left), (other_top, other_left) in combinations(image, 2):
            assert abs(top - other_top) >= 8 or abs(left - other_left) >= 8


@settings(deadline=None, max_examples=30)
@given(rows=st.lists(st.integers(0, 19), min_size=1, max_size=8), rng_key=st.integers(0, 2**40))
def test_cuts_do_not_depend_on_the_split_of_the_batch(rows: list[int], rng_key: int) -> None:
    # Source: identity.
    images, positions, grid = pictures(20, 18), torch.arange(20), PatchGrid(cell=6, patch=4)
    whole = cut_patches(images, grid, rng_key, positions)
    part = cut_patches(images[rows], grid, rng_key, positions[rows])
    torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rng_key", [None, 3])
def test_cutting_in_chunks_gives_equal_patches(
    rng_key: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Source: identity.
    images, positions = pictures(7, 18), torch.arange(7) * 5
    grid = PatchGrid(cell=6, patch=4)
    whole = cut_patches(images, grid, rng_key, positions)
    for piece in (1, 3 * images[0].numel(), 4 * images[0].numel() - 1):
        monkeypatch.setattr("retable.nn.patches._CPU_PIECE", piece)
        assert torch.equal(cut_patches(images, grid, rng_key, positions), whole)
        if rng_key is None:
            assert torch.equal(cut_patches(images, grid), whole)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64])
def test_patches_are_of_the_images_dtype_whatever_their_layout(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    # Source: identity.
    grid = PatchGrid(cell=6, patch=4, standardise=False)
    images = (255 * pictures(5, 18)).to(dtype)
    expected = cut_patches(images, grid, 1, torch.arange(5))
    patches = cut_patches(images.contiguous(memory_format=layout), grid, 1, torch.arange(5))
    assert patches.dtype == dtype
    assert torch.equal(patches, expected)


def test_a_gradient_returns_to_the_pixels_that_were_cut() -> None:
    # Source: the sum of patches that do not overlap.
    images = pictures(2, 18).requires_grad_()
    grid = PatchGrid(cell=6, patch=4, standardise=False)
    (gradient,) = torch.autograd.grad(cut_patches(images, grid).sum(), images)
    inside = torch.tensor([0.0, 1, 1, 1, 1, 0] * 3)
    assert torch.equal(gradient, (inside[:, None] * inside).expand(2, 3, 18, 18))


@pytest.mark.parametrize("rng_key", [None, 3])
def test_cutting_reads_nothing_from_the_device(rng_key: int | None) -> None:
    # Source: tensors on the meta device have no values to wait for.
    with torch.device("meta"):
        images, positions = torch.empty(5, 3, 33, 33), torch.arange(5)
        patches = cut_patches(images, PatchGrid(cell=11, patch=8), rng_key, positions)
    assert patches.shape == (5, 9, 3, 8, 8)
    assert patches.is_meta


def test_no_images_give_no_patches() -> None:
    patches = cut_patches(torch.zeros(0, 3, 18, 18), PatchGrid(cell=6, patch=4), 0, torch.arange(0))
    assert patches.shape == (0, 9, 3, 4, 4)


def test_a_standardised_patch_has_mean_0_and_the_populations_deviation_1() -> None:
    # Source: definition, over channels and pixels jointly; channels alone then differ.
    images = pictures(4, 33) * torch.tensor([0.2, 0.5, 1.0])[:, None, None]
    patches = cut_patches(images, PatchGrid(cell=11, patch=8), 1, torch.arange(4)).double()
    values = patches.flatten(2)
    zeros = torch.zeros(4, 9, dtype=torch.float64)
    torch.testing.assert_close(values.mean(dim=2), zeros, rtol=0, atol=1e-6)
    torch.testing.assert_close(values.std(dim=2, correction=0), zeros + 1, rtol=0, atol=1e-6)
    assert (patches.mean(dim=(3, 4))[:, :, 0] < -0.3).all()


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4, 1e-6])
def test_standardised_images_are_those_of_plain_loops(scale: float) -> None:
    # Source: tf.image.per_image_standardization's formula, for levels up to 255.
    images = 0.5 + scale * (pictures(3, 7) - 0.5)
    for image, found in zip(images, standardise(images), strict=True):
        levels = [255 * value for value in image.double().flatten().tolist()]
        count = len(levels)
        mean = sum(levels) / count
        deviation = (sum((level - mean) ** 2 for level in levels) / count) ** 0.5
        floor = max(deviation, count**-0.5)
        expected = torch.tensor([(level - mean) / floor for level in levels]).view(image.shape)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    shift=st.floats(-1, 1, width=32),
    factor=st.floats(0.125, 8, width=32),
)
def test_standardising_removes_brightness_and_contrast(shift: float, factor: float) -> None:
    # Source: identity.
    patch = pictures(1, 12)
    expected = standardise(patch)
    torch.testing.assert_close(standardise(factor * patch + shift), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_patch_becomes_zeros(dtype: torch.dtype, value: float) -> None:
    # Source: definition; 0.3 is no number of any of these types.
    images = torch.full((2, 3, 33, 33), value).to(dtype)
    patches = cut_patches(images, PatchGrid(cell=11, patch=8), 1, torch.arange(2))
    assert patches.dtype == torch.float32
    assert torch.equal(patches, torch.zeros(2, 9, 3, 8, 8))
    everywhere = images.float().requires_grad_()
    (gradient,) = torch.autograd.grad(standardise(everywhere).square().sum(), everywhere)
    assert torch.equal(gradient, torch.zeros_like(everywhere))


def test_a_nearly_constant_patch_is_not_amplified() -> None:
    # Source: the floor; a resize leaves differences of rounding in flat areas.
    flat = torch.full((1, 3, 12, 12), 0.3) + 6e-8 * (pictures(1, 12) > 0.5)
    assert standardise(flat).abs().max() < 0.01


def test_autocast_does_not_change_patches() -> None:
    # Source: identity.
    images, grid = pictures(2, 33), PatchGrid(cell=11, patch=8)
    plain = cut_patches(images, grid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cut_patches(images, grid), plain)


def test_images_are_not_changed() -> None:
    # Source: identity.
    images = pictures(2, 33)
    before = images.clone()
    cut_patches(images, PatchGrid(cell=11, patch=8))
    standardise(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"grid": 0}, "`grid` must be at least 1, got 0"),
        ({"patch": 86}, "85 pixels, got 86"),
        ({"patch": 0}, "`patch` must be at least 1, got 0"),
    ],
)
def test_invalid_grids_are_refused(sizes: dict[str, int], sentence: str) -> None:
    # Source: the class's own documentation.
    with pytest.raises(UserError, match=sentence):
        replace(PatchGrid(), **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width"), [(30, 33), (33, 30), (34, 34)])
def test_images_of_another_size_are_refused(height: int, width: int) -> None:
    # Source: the function's own documentation.
    grid = PatchGrid(cell=11, patch=8)
    with pytest.raises(UserError, match=f"33 x 33 pixels, got {height} x {width}"):
        cut_patches(torch.zeros(2, 3, height, width), grid)


def test_positions_count_from_0_if_none_are_given() -> None:
    images, grid = torch.rand(4, 3, 33, 33), PatchGrid(cell=11, patch=8)
    assert torch.equal(cut_patches(images, grid, 5), cut_patches(images, grid, 5, torch.arange(4)))
