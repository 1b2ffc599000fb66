import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from feature_transform import extrapolate_positives

SHAPES = pytest.mark.parametrize(
    "shape", [(), (6, 1), (6, 9)], ids=["batch", "sample", "dimension"]
)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def weights(*shape: int, seed: int = 0) -> Tensor:
    return 1 + torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scores(query: Tensor, key: Tensor) -> Tensor:
    return (query * key).sum(dim=1)


def pair_of_score(score: float) -> tuple[Tensor, Tensor]:
    """Return two unit features (1, 2) whose inner product is the score."""
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    return query, torch.tensor([[score, math.sqrt(1 - score**2)]], dtype=torch.float64)


@SHAPES
def test_both_features_are_the_weighted_sums_of_the_paper(shape: tuple[int, ...]) -> None:
    # Independent reference: the four weighted vectors, one number after the other.
    query, key, weight = unit(6, 9), unit(6, 9, seed=1), weights(*shape)
    moved, moved_key = extrapolate_positives(query, key, weight)
    each = weight.expand(6, 9)
    for b in range(6):
        for d in range(9):
            w, q, k = (float(x[b, d]) for x in (each, query, key))
            assert float(moved[b, d]) == pytest.approx(w * q + (1 - w) * k)
            assert float(moved_key[b, d]) == pytest.approx(w * k + (1 - w) * q)


@SHAPES
def test_the_sum_of_a_pair_stays_and_its_difference_grows(shape: tuple[int, ...]) -> None:
    query, key, weight = unit(6, 9), unit(6, 9, seed=1), weights(*shape)
    moved, moved_key = extrapolate_positives(query, key, weight)
    torch.testing.assert_close(moved + moved_key, query + key)
    torch.testing.assert_close(moved - moved_key, (2 * weight - 1) * (query - key))


@pytest.mark.parametrize("shape", [(), (6, 1)])
def test_the_score_falls_and_the_lengths_grow_by_the_same_amount(shape: tuple[int, ...]) -> None:
    query, key, weight = unit(6, 9), unit(6, 9, seed=1), weights(*shape)
    score = scores(query, key)
    fall = (2 * weight * (weight - 1)).expand(6, 1)[:, 0] * (1 - score)
    moved, moved_key = extrapolate_positives(query, key, weight)
    torch.testing.assert_close(scores(moved, moved_key), score - fall)
    torch.testing.assert_close(scores(moved, moved), 1 + fall)
    torch.testing.assert_close(scores(moved_key, moved_key), 1 + fall)
    torch.testing.assert_close(scores(moved, moved_key) + scores(moved, moved), 1 + score)


def test_weights_by_dimension_lower_the_score_by_each_dimensions_difference() -> None:
    query, key, weight = unit(6, 9), unit(6, 9, seed=1), weights(6, 9)
    fall = (weight * (weight - 1) * (query - key).square()).sum(dim=1)
    torch.testing.assert_close(
        scores(*extrapolate_positives(query, key, weight)), scores(query, key) - fall
    )


@settings(deadline=None)
@given(score=st.floats(-1, 1), weight=st.floats(1, 2))
def test_no_pair_becomes_easier_and_only_pulled_pairs_become_harder(
    score: float, weight: float
) -> None:
    moved = scores(*extrapolate_positives(*pair_of_score(score), weight)).item()
    assert moved <= score + 1e-12
    assert moved >= 5 * score - 4 - 1e-12
    if score == 1 or weight == 1:
        assert moved == pytest.approx(score)
    elif score < 0.99 and weight > 1.01:
        assert moved < score - 1e-4


@pytest.mark.parametrize(
    ("score", "weight", "expected"),
    [
        (0.9, 1.5, 0.75),
        (0.8, 1.5, 0.5),
        (0.6, 1.5, 0.0),
        (0.0, 1.5, -1.5),
        (0.8, 2.0, 0.0),
        (-1.0, 2.0, -9.0),
    ],
)
def test_known_scores(score: float, weight: float, expected: float) -> None:
    moved = extrapolate_positives(*pair_of_score(score), weight)
    assert scores(*moved).item() == pytest.approx(expected)


def test_a_weight_of_one_returns_the_pair_to_the_bit() -> None:
    query, key = unit(6, 9).float(), unit(6, 9, seed=1).float()
    for weight in (1.0, torch.ones(6, 1), torch.ones(6, 9)):
        moved, moved_key = extrapolate_positives(query, key, weight)
        assert torch.equal(moved, query)
        assert torch.equal(moved_key, key)


# Back on the sphere


@SHAPES
def test_renormalised_features_are_the_same_directions(shape: tuple[int, ...]) -> None:
    query, key, weight = unit(6, 9), unit(6, 9, seed=1), weights(*shape)
    plain = extrapolate_positives(query, key, weight)
    for feature, expected in zip(
        extrapolate_positives(query, key, weight, renormalise=True), plain, strict=True
    ):
        torch.testing.assert_close(feature.norm(dim=1), torch.ones(6, dtype=torch.float64))
        torch.testing.assert_close(feature * expected.norm(dim=1, keepdim=True), expected)


@settings(deadline=None)
@given(score=st.floats(-1, 1), weight=st.floats(1, 2))
def test_a_renormalised_score_is_the_cosine_of_the_moved_pair(score: float, weight: float) -> None:
    fall = 2 * weight * (weight - 1) * (1 - score)
    moved = extrapolate_positives(*pair_of_score(score), weight, renormalise=True)
    assert scores(*moved).item() == pytest.approx((score - fall) / (1 + fall))
    assert abs(scores(*moved).item()) <= 1 + 1e-12


# The gradient


def tangent_gradients(weight: Tensor, detach_inside: bool = False) -> tuple[Tensor, Tensor]:
    """Return the gradients of raw and of moved scores at a head's output, before its normalising.

    ``detach_inside`` stops the one that flows through the query inside the moved key.
    """
    output = 3 * unit(6, 9)
    output.requires_grad_()
    key = unit(6, 9, seed=1)
    query = normalize(output, dim=1)
    raw = torch.autograd.grad(scores(query, key).sum(), output, retain_graph=True)[0]
    moved, moved_key = extrapolate_positives(query, key, weight)
    if detach_inside:
        moved_key = extrapolate_positives(query.detach(), key, weight)[1]
    return raw, torch.autograd.grad(scores(moved, moved_key).sum(), output)[0]


@pytest.mark.parametrize("shape", [(), (6, 1)])
def test_the_gradient_is_the_raw_one_rescaled_because_nothing_is_detached(
    shape: tuple[int, ...],
) -> None:
    weight = weights(*shape)
    raw, moved = tangent_gradients(weight)
    torch.testing.assert_close(moved, (1 + 2 * weight * (weight - 1)) * raw)


def test_a_detached_query_inside_the_key_would_rescale_by_another_factor() -> None:
    """What the test above rules out: both factors are 1 at a weight of 1 and 5 and 4 at 2."""
    weight = weights(6, 1)
    raw, moved = tangent_gradients(weight, detach_inside=True)
    torch.testing.assert_close(moved, weight**2 * raw)


@pytest.mark.parametrize("renormalise", [False, True])
def test_a_detached_key_stays_a_constant(renormalise: bool) -> None:
    query, key = unit(6, 9).requires_grad_(), unit(6, 9, seed=1).requires_grad_()
    moved = extrapolate_positives(query, key.detach(), weights(6, 1), renormalise=renormalise)
    torch.autograd.backward(scores(*moved).sum())
    assert key.grad is None
    assert query.grad is not None
    assert query.grad.abs().max() > 0
