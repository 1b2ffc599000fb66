import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from feature_transform import TransformRecipe
from feature_transform.draws import (
    check_draw_group,
    draw_groups,
    hard_weights,
    mixture,
    positive_weights,
    row_weights,
)
from retable.errors import UserError

Level = Literal["batch", "sample", "dimension"]

LEVELS = pytest.mark.parametrize("level", ["batch", "sample", "dimension"])
KEY = 11


def positions(start: int, stop: int) -> Tensor:
    return torch.arange(start, stop)


def group(number: int) -> Tensor:
    return torch.tensor(number)


def mixed(transform: TransformRecipe, number: int = 0, rng_key: int = KEY) -> tuple[Tensor, Tensor]:
    return mixture(transform, rng_key, group(number), size=30, dim=5)


def distinct(weight: Tensor) -> int:
    return len(set(weight.flatten().tolist()))


# How many weights there are


def test_each_level_draws_as_many_weights_as_its_name_says() -> None:
    def draw(level: Level, group: int | None = None) -> Tensor:
        return row_weights(KEY, positions(0, 12), 5, (2.0, 2.0), level, group)

    assert (draw("batch").shape, distinct(draw("batch"))) == ((12, 1), 1)
    assert (draw("sample").shape, distinct(draw("sample"))) == ((12, 1), 12)
    assert (draw("dimension").shape, distinct(draw("dimension"))) == ((12, 5), 60)
    grouped = draw("batch", 4)
    assert distinct(grouped) == 3
    assert all(distinct(part) == 1 for part in grouped.view(3, 4))
    for level in ("sample", "dimension"):  # there, every row has draws of its own already
        assert torch.equal(draw(level), draw(level, 4))


def test_negatives_of_a_group_share_draws_and_other_groups_have_others() -> None:
    expected: list[tuple[Level, tuple[int, ...], int]] = [
        ("batch", (), 1),
        ("sample", (30, 1), 30),
        ("dimension", (30, 5), 150),
    ]
    for level, shape, count in expected:
        transform = replace(TransformRecipe(), level=level)
        partners, weight = mixed(transform)
        assert (weight.shape, distinct(weight)) == (shape, count)
        assert torch.equal(partners.sort().values, torch.arange(30))
        other_partners, other_weight = mixed(transform, number=1)
        assert not torch.equal(partners, other_partners)
        assert not set(weight.flatten().tolist()) & set(other_weight.flatten().tolist())


# What they depend on


@settings(deadline=None)
@given(
    level=st.sampled_from(["batch", "sample", "dimension"]),
    draw_group=st.sampled_from([None, 1, 3, 8, 100]),
    cut=st.integers(1, 15),
)
def test_a_split_batch_has_the_weights_of_the_whole(
    level: Level, draw_group: int | None, cut: int
) -> None:
    transform = TransformRecipe(level=level, draw_group=draw_group)
    for draw in (positive_weights, hard_weights):
        whole = draw(transform, KEY, positions(0, 16), 5)
        parts = [draw(transform, KEY, positions(*ends), 5) for ends in ((0, cut), (cut, 16))]
        assert torch.equal(torch.cat(parts), whole)


@LEVELS
def test_every_step_draws_afresh(level: Level) -> None:
    transform = TransformRecipe(level=level)
    for draw in (positive_weights, hard_weights):
        weights = [draw(transform, key, positions(0, 4), 5) for key in (KEY, KEY + 1)]
        assert not (weights[0] == weights[1]).any()
    before, after = mixed(transform), mixed(transform, rng_key=KEY + 1)
    assert not torch.equal(before[0], after[0])
    assert not (before[1] == after[1]).any()


@pytest.mark.parametrize("negatives", ["interpolate", "extrapolate"])
def test_weights_of_positives_and_negatives_and_partners_are_independent(negatives: Any) -> None:
    steps = range(1500)
    transform = TransformRecipe(negatives=negatives)
    draws = [
        (
            float(positive_weights(transform, key, positions(0, 1), 5)),
            float(hard_weights(transform, key, positions(0, 1), 5)),
            float(mixed(transform, rng_key=key)[1]),
            float(mixed(transform, rng_key=key)[0][0]),
        )
        for key in steps
    ]
    correlations = torch.corrcoef(torch.tensor(draws, dtype=torch.float64).T)
    off_diagonal = correlations[~torch.eye(4, dtype=torch.bool)]
    assert off_diagonal.abs().max() < 4 / math.sqrt(len(steps))


def test_draws_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    positive_weights(TransformRecipe(), KEY, positions(0, 4), 5)
    mixed(TransformRecipe(level="dimension"))
    assert torch.equal(before, torch.random.get_rng_state())


# Their distributions


@LEVELS
def test_weights_lie_where_the_operation_wants_them(level: Level) -> None:
    transform = TransformRecipe(level=level, draw_group=1, alpha_ex=0.5, alpha_in=0.5)
    many = positions(0, 2000)
    for weight in (
        positive_weights(transform, KEY, many, 5),
        mixed(replace(transform, negatives="extrapolate"))[1],
    ):
        assert weight.min() >= 1
        assert weight.max() <= 2
    for weight in (hard_weights(transform, KEY, many, 5), mixed(transform)[1]):
        assert weight.min() > 0
        assert weight.max() < 1


def moments(weight: Tensor) -> tuple[float, float]:
    """Return means of w and of w (1 - w)."""
    weight = weight.double()
    return float(weight.mean()), float((weight * (1 - weight)).mean())


def test_weights_have_the_moments_of_their_own_beta() -> None:
    # Source: E[w (1 - w)] = a b / ((a + b) (a + b + 1)); standard errors below 0.5 / sqrt(n).
    many, tolerance = positions(0, 40_000), 4 * 0.5 / math.sqrt(40_000)
    transform = TransformRecipe(level="sample", alpha_ex=2.0, alpha_in=1.6)

    def expect(weight: Tensor, a: float, b: float) -> None:
        mean, product = moments(weight)
        assert mean == pytest.approx(a / (a + b), abs=tolerance)
        assert product == pytest.approx(a * b / ((a + b) * (a + b + 1)), abs=tolerance)

    expect(positive_weights(transform, KEY, many, 1) - 1, 2.0, 2.0)
    interpolated = mixture(transform, KEY, group(0), 40_000, 1).weight
    expect(interpolated, 1.6, 1.6)
    extrapolating = replace(transform, negatives="extrapolate")
    expect(mixture(extrapolating, KEY, group(0), 40_000, 1).weight - 1, 2.0, 2.0)
    for hard_beta in ((2.0, 1.0), (5.0, 2.0)):
        hard = replace(transform, negatives="hard", hard_beta=hard_beta)
        expect(hard_weights(hard, KEY, many, 1), *hard_beta)
        other = hard_weights(replace(hard, hard_weight_on="negative"), KEY, many, 1)
        expect(1 - other, *hard_beta)


# Groups


@pytest.mark.parametrize(
    ("ends", "size", "expected"),
    [
        ((0, 8), None, [(0, 0, 8)]),
        ((8, 16), None, [(0, 0, 8)]),
        ((0, 8), 4, [(0, 0, 4), (1, 4, 8)]),
        ((8, 16), 4, [(2, 0, 4), (3, 4, 8)]),
        ((8, 16), 16, [(0, 0, 8)]),
        ((16, 24), 16, [(1, 0, 8)]),
        ((3, 6), 1, [(3, 0, 1), (4, 1, 2), (5, 2, 3)]),
    ],
)
def test_groups_are_numbered_over_the_global_batch(
    ends: tuple[int, int], size: int | None, expected: list[tuple[int, int, int]]
) -> None:
    found = draw_groups(positions(*ends), size)
    assert [(int(number), own.start, own.stop) for number, own in found] == expected


@pytest.mark.parametrize(("rows", "size"), [(8, 3), (8, 12), (24, 16)])
def test_a_group_that_is_cut_by_a_process_is_refused(rows: int, size: int) -> None:
    message = f"a process's {rows} rows or be a multiple of them, got {size}"
    with pytest.raises(UserError, match=message):
        check_draw_group(rows, size)
    with pytest.raises(UserError, match=message):
        list(draw_groups(positions(0, rows), size))


@pytest.mark.parametrize(("rows", "size"), [(8, 8), (8, 2), (8, 64), (8, None), (1, 5)])
def test_whole_groups_and_whole_parts_of_one_are_not(rows: int, size: int | None) -> None:
    check_draw_group(rows, size)
