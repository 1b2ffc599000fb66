"""Statistics of scores, held against loops over single scores in float64."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from retable.nn.queues import KeyQueue
from retable.nn.scores import ScoreStatistics, queue_score_statistics, score_statistics
from retable.random import derive_key, normal


def draw(name: str, *shape: int) -> Tensor:
    return normal(derive_key(0, name), torch.arange(math.prod(shape)).view(shape))


def brute_force(positives: list[float], negatives: list[list[float]]) -> tuple[float, float, float]:
    """Compute the statistics one query at a time; those without negatives are left out."""
    rows = [row for row in negatives if row]
    return (
        statistics.fmean(positives),
        statistics.fmean(statistics.fmean(row) for row in rows),
        statistics.fmean(statistics.variance(row) for row in rows if len(row) > 1),
    )


def unfolded(queries: Tensor, keys: Tensor, rows: Tensor) -> tuple[float, float, float]:
    """Compute the statistics of all scores of queries with keys and rows."""
    queries, keys, rows = queries.double(), keys.double(), rows.double()
    return brute_force((queries * keys).sum(1).tolist(), (queries @ rows.T).tolist())


def as_floats(found: ScoreStatistics) -> list[float]:
    return [float(value) for value in found]


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("centre", [0.0, 0.9])
def test_statistics_are_those_of_single_scores_in_float64(centre: float, spread: float) -> None:
    positives, negatives = draw("p", 7), centre + spread * draw("n", 7, 300)
    expected = brute_force(positives.double().tolist(), negatives.double().tolist())
    assert as_floats(score_statistics(positives, negatives)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_many_scores_summed_in_chunks_equal_the_definition(masked: bool) -> None:
    positives, negatives = draw("many p", 5), 0.5 + 0.1 * draw("many n", 5, 400_000)
    if masked:
        negatives[1, ::2] = negatives[4, 1:] = -math.inf
    wide = negatives.double()
    rows = [row[row > -math.inf] for row in wide]
    variances = [row.var() for row in rows if len(row) > 1]
    expected = [positives.double().mean(), torch.stack([row.mean() for row in rows]).mean()]
    expected.append(torch.stack(variances).mean())
    found = score_statistics(positives, negatives)
    assert as_floats(found) == pytest.approx([float(value) for value in expected], rel=1e-5)


def test_the_variance_is_that_within_queries_not_that_between_them() -> None:
    negatives = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert float(score_statistics(torch.ones(2), negatives).negative_variance) == 0.0
    assert float(negatives.var()) > 0.2


@given(
    st.lists(st.lists(st.floats(-4, 4, width=32) | st.none(), min_size=5, max_size=5), min_size=1)
)
def test_masked_scores_are_left_out(scores: list[list[float | None]]) -> None:
    negatives = torch.tensor([[-math.inf if s is None else s for s in row] for row in scores])
    remaining = [[s for s in row if s is not None] for row in scores]
    found = score_statistics(torch.zeros(len(scores)), negatives)
    if not any(remaining):
        assert math.isnan(found.negative_mean)
        return
    mean = statistics.fmean(statistics.fmean(row) for row in remaining if row)
    assert float(found.negative_mean) == pytest.approx(mean, rel=1e-5, abs=1e-6)
    several = [statistics.variance(row) for row in remaining if len(row) > 1]
    if several:
        variance = pytest.approx(statistics.fmean(several), rel=1e-5, abs=1e-6)
        assert float(found.negative_variance) == variance


@pytest.mark.parametrize("where", [(slice(0, 1), slice(None)), (slice(0, 1), slice(0, 1))])
def test_nan_scores_give_nan_statistics(where: tuple[slice, slice]) -> None:
    negatives = torch.zeros(3, 4)
    negatives[where] = math.nan
    found = score_statistics(torch.zeros(3), negatives)
    assert math.isnan(found.negative_mean)
    assert math.isnan(found.negative_variance)
    assert float(found.positive_mean) == 0.0


def test_half_precision_scores_are_summed_in_float32() -> None:
    negatives = 0.5 + 0.25 * draw("half", 2, 4096)
    half = score_statistics(torch.ones(2).half(), negatives.half())
    expected = brute_force([1.0, 1.0], negatives.half().double().tolist())
    assert as_floats(half) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("size", "dim"), [(1000, 16), (37, 64), (2, 3)])
def test_queue_statistics_equal_those_of_all_scores(size: int, dim: int) -> None:
    queue = KeyQueue(size, dim, rng_key=1)
    queries, keys = normalize(draw("q", 9, dim)), normalize(draw("k", 9, dim))
    found = queue_score_statistics(queries, keys, queue.moments)
    assert as_floats(found) == pytest.approx(unfolded(queries, keys, queue.rows), rel=1e-6)


@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3])
def test_a_variance_far_below_the_squared_mean_is_accurate(spread: float) -> None:
    # What a nearly collapsed embedding looks like: all features close to one direction.
    direction = normalize(draw("direction", 1, 32))
    queries, keys, first, second = (
        normalize(direction + spread * draw(name, count, 32))
        for name, count in (("q", 8), ("k", 8), ("a", 300), ("b", 450))
    )
    queue = KeyQueue(512, 32, rng_key=0)
    queue.enqueue(first)
    queue.enqueue(second)
    expected = unfolded(queries, keys, queue.rows)
    assert expected[2] < 40 * spread**2 * expected[1] ** 2
    found = queue_score_statistics(queries, keys, queue.moments)
    assert as_floats(found) == pytest.approx(expected, rel=1e-6)


def test_negatives_of_a_fresh_queue_have_mean_zero_and_variance_one_over_d() -> None:
    # Source: the components of a random direction have mean 0 and variance 1 / D.
    queue = KeyQueue(4096, 64, rng_key=0)
    queries = normalize(draw("fresh", 256, 64))
    found = queue_score_statistics(queries, queries, queue.moments)
    assert float(found.positive_mean) == pytest.approx(1.0, abs=1e-6)
    assert abs(float(found.negative_mean)) < 0.002
    assert float(found.negative_variance) == pytest.approx(1 / 64, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3))
def test_features_need_not_be_on_the_unit_sphere(scale: float) -> None:
    queue = KeyQueue(50, 4, rng_key=0)
    queue.enqueue(scale * draw("far", 40, 4))
    queries, keys = scale * draw("fq", 5, 4), scale * draw("fk", 5, 4)
    found = queue_score_statistics(queries, keys, queue.moments)
    assert as_floats(found) == pytest.approx(unfolded(queries, keys, queue.rows), rel=1e-6)


def test_a_queue_of_one_row_has_no_variance() -> None:
    queue = KeyQueue(1, 4, rng_key=0)
    found = queue_score_statistics(queue.rows, queue.rows, queue.moments)
    assert float(found.negative_mean) == pytest.approx(1.0)
    assert math.isnan(found.negative_variance)


def test_statistics_are_named_and_carry_no_gradient() -> None:
    features = normalize(draw("grad", 3, 4)).requires_grad_()
    queue = KeyQueue(6, 4, rng_key=0)
    raw = queue_score_statistics(features, features, queue.moments)
    seen = score_statistics((features * features).sum(1), features @ queue.rows.T)
    assert not any(value.requires_grad or value.ndim for value in (*raw, *seen))
    assert list(raw.named()) == ["positive_mean", "negative_mean", "negative_variance"]
    assert seen.named("transformed_")["transformed_negative_mean"] is seen.negative_mean
    assert as_floats(seen) == pytest.approx(as_floats(raw), rel=1e-5)
