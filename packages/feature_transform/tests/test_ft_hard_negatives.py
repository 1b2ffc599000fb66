from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from feature_transform import hard_negative_scores, mix_with_query

SHAPES = pytest.mark.parametrize(
    "shape", [(), (4, 1), (4, 8)], ids=["batch", "sample", "dimension"]
)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def shares(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@SHAPES
def test_each_query_has_a_queue_of_its_own_mixed_with_itself(shape: tuple[int, ...]) -> None:
    # Independent reference: equation 2, one number after the other.
    query, queue, weight = unit(4, 8), unit(10, 8, seed=1), shares(*shape)
    points, each = mix_with_query(query, queue, weight), weight.expand(4, 8)
    assert points.shape == (4, 10, 8)
    for b in range(4):
        for j in range(10):
            for d in range(8):
                w = float(each[b, d])
                expected = w * float(query[b, d]) + (1 - w) * float(queue[j, d])
                assert float(points[b, j, d]) == pytest.approx(expected)


@SHAPES
def test_renormalised_points_have_unit_length(shape: tuple[int, ...]) -> None:
    points = mix_with_query(unit(4, 8), unit(10, 8, seed=1), shares(*shape), renormalise=True)
    torch.testing.assert_close(points.norm(dim=2), torch.ones(4, 10, dtype=torch.float64))


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 4),
    size=st.integers(1, 20),
    dim=st.integers(2, 10),
    level=st.sampled_from(["number", "batch", "sample", "dimension"]),
    other_scored=st.booleans(),
    renormalise=st.booleans(),
    unit_queue=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_scores_without_points_equal_scores_of_points_in_value_and_gradient(
    batch: int,
    size: int,
    dim: int,
    level: str,
    other_scored: bool,
    renormalise: bool,
    unit_queue: bool,
    seed: int,
) -> None:
    query = unit(batch, dim, seed=seed).requires_grad_()
    queue = unit(size, dim, seed=seed + 1) * (1 if unit_queue else 1.7)
    shapes = {"number": (), "batch": (), "sample": (batch, 1), "dimension": (batch, dim)}
    drawn = shares(*shapes[level], seed=seed)
    weight = float(drawn) if level == "number" else drawn
    scored = 1.5 * query - 0.5 * unit(batch, dim, seed=seed + 3) if other_scored else query
    options: dict[str, Any] = {
        "renormalise": renormalise,
        "rows": "unit" if unit_queue else "unchecked",
    }
    points = mix_with_query(query, queue, weight, **options)
    forms = (
        torch.einsum("bd,bkd->bk", scored, points),
        hard_negative_scores(scored, query, queue, weight, **options),
    )
    torch.testing.assert_close(*forms, rtol=1e-7, atol=1e-7)
    pull = unit(batch, size, seed=seed + 2)
    gradients = [
        torch.autograd.grad((form * pull).sum(), query, retain_graph=True)[0] for form in forms
    ]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (4, 1)])
@pytest.mark.parametrize("renormalise", [False, True])
def test_no_hard_negative_scores_below_its_raw_score(
    shape: tuple[int, ...], renormalise: bool
) -> None:
    query, queue, weight = unit(4, 8), unit(50, 8, seed=1), shares(*shape)
    raw = query @ queue.T
    hard = hard_negative_scores(query, query, queue, weight, renormalise=renormalise)
    assert (hard >= raw - 1e-12).all()
    assert (hard <= 1 + 1e-12).all()
    if not renormalise:
        torch.testing.assert_close(hard, weight + (1 - weight) * raw)


def test_no_share_of_the_query_leaves_the_raw_scores() -> None:
    query, queue = unit(4, 8), unit(50, 8, seed=1)
    for renormalise in (False, True):
        hard = hard_negative_scores(query, query, queue, 0.0, renormalise=renormalise)
        torch.testing.assert_close(hard, query @ queue.T)


@pytest.mark.parametrize("shape", [(), (4, 1)])
def test_detaching_the_query_inside_the_points_changes_no_gradient_of_the_head(
    shape: tuple[int, ...],
) -> None:
    """The term lies along the query, and normalising projects it out."""
    output = 3 * unit(4, 8)
    output.requires_grad_()
    queue, weight, pull = unit(20, 8, seed=1), shares(*shape), unit(4, 20, seed=2)
    query = normalize(output, dim=1)
    gradients = [
        torch.autograd.grad(
            (hard_negative_scores(query, inside, queue, weight) * pull).sum(),
            output,
            retain_graph=True,
        )[0]
        for inside in (query, query.detach())
    ]
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(*gradients)


def test_a_query_and_its_opposite_in_equal_shares_give_finite_scores_and_gradients() -> None:
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    queue = torch.tensor([[-1.0000001, 0.0], [0.0, 1.0]])
    scores = hard_negative_scores(query, query, queue, 0.5, renormalise=True)
    torch.autograd.backward(scores.sum())
    assert scores.abs().max() <= 1
    assert query.grad is not None
    assert query.grad.isfinite().all()
