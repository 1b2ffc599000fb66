"""Metrics that methods log of a step's scores."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retable import distributed
from retable.methods.method import Metrics
from retable.methods.metrics import embedding_spread, quantiles, ranking
from retable.testing import run_processes


def at(found: Metrics) -> list[float]:
    return [float(value) for value in found.values()]


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=300), st.integers(0, 50), st.randoms())
def test_quantiles_are_those_of_the_scores_that_are_not_masked(
    values: list[int], masked: int, order: random.Random
) -> None:
    scores = [value / 20 for value in values] + [-math.inf] * masked
    order.shuffle(scores)
    ordered = sorted(value for value in scores if value > -math.inf)
    expected = [ordered[(len(ordered) - 1) * level // 100] for level in (5, 50, 95)]
    assert at(quantiles("x", torch.tensor(scores, dtype=torch.float64))) == expected


def test_where_every_score_is_masked_the_quantiles_are_the_least_cosine() -> None:
    assert at(quantiles("x", torch.full((3,), -math.inf))) == [-1.0] * 3


def test_nan_scores_give_nan_quantiles() -> None:
    assert all(math.isnan(value) for value in at(quantiles("x", torch.full((2,), math.nan))))


def test_masked_negatives_do_not_enter_the_ranking() -> None:
    logits = torch.tensor([[0.5, 0.1, 0.2, 0.3]])
    with_masked = torch.cat([logits, torch.full((1, 7), -math.inf)], dim=1)
    assert ranking(with_masked) == ranking(logits)


def metrics_of_own_rows(logits: torch.Tensor, embeddings: torch.Tensor) -> list[float]:
    own, spread = distributed.own_slice(logits), distributed.own_slice(embeddings)
    found = {**ranking(own), "spread": embedding_spread(spread)}
    return [float(distributed.mean(torch.as_tensor(value))) for value in found.values()]


@pytest.mark.parametrize("rows", [16, 48, 64])
def test_metrics_of_two_processes_are_those_of_one(rows: int) -> None:
    # Each process's own embeddings are one point: by themselves, both would have collapsed.
    draw = torch.Generator().manual_seed(0)
    logits = torch.rand(rows, 40, generator=draw) * 2 - 1
    logits[1, 3:7] = -math.inf
    points = torch.nn.functional.normalize(torch.randn(2, 8, generator=draw), dim=1)
    embeddings = points.repeat_interleave(rows // 2, dim=0)
    expected = metrics_of_own_rows(logits, embeddings)
    assert expected[-1] > 0.1
    for found in run_processes(metrics_of_own_rows, 2, logits, embeddings):
        assert found == pytest.approx(expected, rel=1e-5)
