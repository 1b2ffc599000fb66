"""Jigsaws: one crop in each cell, every draw a function of the sample's place alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_transform.jigsaw import JigsawHead, cut_jigsaw, shuffled_orders
from retable.errors import UserError
from retable.random import derive_key, integers


def coordinates(count: int, side: int) -> torch.Tensor:
    """Images (count, 3, side, side) whose channels hold sample, row and column."""
    planes = torch.meshgrid(*(torch.arange(float(n)) for n in (count, side, side)), indexing="ij")
    return torch.stack(planes, dim=1)


@settings(deadline=None, max_examples=40)
@given(
    grid=st.integers(1, 4),
    cell=st.integers(1, 9),
    data=st.data(),
    rng_key=st.integers(-(2**63), 2**63 - 1),
)
def test_each_crop_is_a_square_of_its_own_cell(
    grid: int, cell: int, rng_key: int, data: Any
) -> None:
    # Source: definition, read off images that hold their own coordinates.
    crop = data.draw(st.integers(1, cell))
    views = coordinates(5, grid * cell)
    crops = cut_jigsaw(views, rng_key, torch.arange(5), grid=grid, cell=cell, crop=crop)
    assert crops.shape == (5, grid * grid, 3, crop, crop)
    for sample in range(5):
        for number in range(grid * grid):
            top, left = (int(crops[sample, number, channel, 0, 0]) for channel in (1, 2))
            expected = views[sample, :, top : top + crop, left : left + crop]
            assert torch.equal(crops[sample, number], expected)
            for corner, first in ((top, number // grid * cell), (left, number % grid * cell)):
                assert first <= corner <= first + cell - crop


def test_crops_are_those_that_a_loop_cuts_where_the_key_says() -> None:
    # Source: two draws for each sample and cell, row and column, counted by the sample's place.
    views = torch.rand(4, 3, 33, 33)
    positions = torch.tensor([3, 0, 70, 12])
    crops = cut_jigsaw(views, 9, positions, grid=3, cell=11, crop=8)
    for row, position in enumerate(positions.tolist()):
        for number in range(9):
            counters = torch.tensor([(position * 9 + number) * 2, (position * 9 + number) * 2 + 1])
            down, right = integers(9, counters, 4).tolist()
            top, left = number // 3 * 11 + down, number % 3 * 11 + right
            assert torch.equal(crops[row, number], views[row, :, top : top + 8, left : left + 8])


def test_shifts_are_uniform_and_independent() -> None:
    # Source: Pearson's chi-squared test, 3 degrees of freedom, rejects once in 10,000 above 21.1;
    # correlation of independent draws.
    views = coordinates(1, 33).expand(4000, -1, -1, -1)
    corners = cut_jigsaw(views, 1, torch.arange(4000), grid=3, cell=11, crop=8)[:, :, 1:, 0, 0]
    shifts = (corners % 11).flatten(1)
    for column in shifts.T:
        counts = Counter(column.tolist())
        assert sorted(counts) == [0, 1, 2, 3]
        assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 21.1
    correlation = torch.corrcoef(shifts.T) - torch.eye(18)
    assert correlation.abs().max() < 5 / 4000**0.5


@settings(deadline=None, max_examples=30)
@given(rows=st.lists(st.integers(0, 19), min_size=1, max_size=8), rng_key=st.integers(0, 2**40))
def test_a_sample_is_cut_and_shuffled_alike_in_any_share_of_the_batch(
    rows: list[int], rng_key: int
) -> None:
    # Source: identity.
    views, positions = torch.rand(20, 3, 12, 12), torch.arange(20)
    whole = cut_jigsaw(views, rng_key, positions, grid=2, cell=6, crop=4)
    part = cut_jigsaw(views[rows], rng_key, positions[rows], grid=2, cell=6, crop=4)
    assert torch.equal(part, whole[rows])
    orders = shuffled_orders(rng_key, positions, 4)
    assert torch.equal(shuffled_orders(rng_key, positions[rows], 4), orders[rows])


def test_all_orders_are_equally_frequent() -> None:
    # Source: Pearson's chi-squared test, 23 degrees of freedom, rejects once in 10,000 above 55.5.
    orders = shuffled_orders(0, torch.arange(24 * 400), 4)
    counts = Counter(map(tuple, orders.tolist()))
    assert len(counts) == 24
    assert sum((count - 400) ** 2 / 400 for count in counts.values()) < 55.5


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_head_embeds_crops_shuffles_joins_and_embeds_again(kind: Any) -> None:
    # Source: PyContrast's head, one image and one crop at a time.
    head = JigsawHead(12, 9, 7, head=kind, rng_key=3)
    features = torch.randn(4, 9, 12)
    orders = shuffled_orders(1, torch.arange(4), 9)
    found = head(features, orders)
    for image in range(4):
        parts = [head.each(features[image, crop]) for crop in orders[image].tolist()]
        expected = F.linear(torch.cat(parts), head.joined.weight, head.joined.bias)
        torch.testing.assert_close(found[image], expected)
    assert found.shape == (4, 7)
    assert head.joined.weight.shape == (7, 63)
    assert len(head.each) == {"linear": 1, "mlp": 3}[kind]


def test_the_heads_weights_are_a_function_of_its_key() -> None:
    # Source: identity.
    one, same, other = (JigsawHead(12, 9, 7, rng_key=key).state_dict() for key in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)
    assert derive_key(3, "each") != derive_key(3, "joined")


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"grid": 0, "cell": 11, "crop": 8}, "`grid` must be at least 1, got 0"),
        ({"grid": 3, "cell": 11, "crop": 12}, "11 pixels, got 12"),
        ({"grid": 3, "cell": 10, "crop": 8}, r"30 x 30 pixels, got 33 x 33"),
    ],
)
def test_sizes_that_do_not_fit_are_a_users_mistake(sizes: dict[str, int], sentence: str) -> None:
    # Source: the function's own documentation.
    with pytest.raises(UserError, match=sentence):
        cut_jigsaw(torch.zeros(2, 3, 33, 33), 0, torch.arange(2), **sizes)
