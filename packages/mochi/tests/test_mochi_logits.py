import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mochi import logits as logits_module
from mochi import mix_hard_negatives, mixed_logits
from mochi.draws import MixingDraws, draw_mixing
from mochi.logits import logits_from_draws
from mochi.mixing import points_from_draws
from mochi.pool import HardPool, hardest

TEMPERATURE = 0.2


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def loss_of(query: Tensor, key: Tensor, queue: Tensor, synthetic: Tensor) -> Tensor:
    """InfoNCE from cosines: synthetic (B, s + s') join before the common division."""
    cosines = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T, synthetic], dim=1)
    return cross_entropy(cosines / TEMPERATURE, torch.zeros(len(query), dtype=torch.int64))


def both_forms(
    query: Tensor, queue: Tensor, pool: HardPool, draws: MixingDraws, **options: bool
) -> tuple[Tensor, Tensor]:
    """Return the logits via points, and in closed form."""
    points = points_from_draws(query, queue, pool, draws, **options)
    closed = logits_from_draws(query, queue, query @ queue.T, pool, draws, **options)
    return torch.einsum("bd,bsd->bs", query, points), closed


@settings(deadline=None, max_examples=50)
@given(
    batch=st.integers(1, 4),
    dim=st.integers(2, 12),
    size=st.integers(2, 40),
    n_share=st.floats(0, 1),
    s=st.integers(0, 20),
    s_prime=st.integers(0, 20),
    detach_query=st.booleans(),
    beta_max=st.sampled_from([0.1, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_the_closed_form_equals_the_points_in_value_and_gradient(
    batch: int,
    dim: int,
    size: int,
    n_share: float,
    s: int,
    s_prime: int,
    detach_query: bool,
    beta_max: float,
    seed: int,
) -> None:
    # Independent reference: products with materialised points, differentiated by autograd.
    query = unit(batch, dim, seed=seed).requires_grad_()
    queue = unit(size, dim, seed=seed + 1)
    pool = hardest(query @ queue.T, max(1, round(n_share * size)))
    draws = draw_mixing(
        seed, torch.arange(batch), pool.sizes, s=s, s_prime=s_prime, beta_max=beta_max
    )
    points, closed = both_forms(query, queue, pool, draws, detach_query=detach_query)
    torch.testing.assert_close(closed, points, rtol=1e-9, atol=1e-9)
    if s + s_prime:
        weights = unit(*points.shape, seed=seed + 2)
        gradients = [
            torch.autograd.grad((form * weights).sum(), query)[0] for form in (points, closed)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def test_the_gradient_is_equal_for_a_query_that_is_not_normalised_too() -> None:
    query = (unit(3, 8) * 1.7).requires_grad_()
    queue = unit(30, 8, seed=1)
    pool = hardest(query @ queue.T, 5)
    draws = draw_mixing(1, torch.arange(3), pool.sizes, s=6, s_prime=6)
    for detach_query in (True, False):
        points, closed = both_forms(query, queue, pool, draws, detach_query=detach_query)
        torch.testing.assert_close(closed, points)
        gradients = [
            torch.autograd.grad(form.square().sum(), query)[0] for form in (points, closed)
        ]
        torch.testing.assert_close(*gradients)


def test_the_two_functions_agree_for_equal_keys_in_float32() -> None:
    query, queue = unit(4, 64, dtype=torch.float32), unit(4096, 64, seed=1, dtype=torch.float32)
    counts: dict[str, Any] = {"n_hard": 100, "s": 300, "s_prime": 200}
    points = mix_hard_negatives(query, queue, 1, **counts)
    closed = mixed_logits(query, queue, 1, **counts)
    expected = torch.einsum("bd,bsd->bs", query, points)
    torch.testing.assert_close(closed, expected, rtol=0, atol=1e-6)


def test_the_size_of_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    query, queue = unit(4, 16), unit(64, 16, seed=1)
    pool = hardest(query @ queue.T, 8)
    draws = draw_mixing(1, torch.arange(4), pool.sizes, s=25, s_prime=3)
    whole = logits_from_draws(query, queue, query @ queue.T, pool, draws)
    monkeypatch.setattr(logits_module, "_CHUNK_CPU", 7)
    assert torch.equal(whole, logits_from_draws(query, queue, query @ queue.T, pool, draws))


def test_dot_products_follow_from_cosines_alone() -> None:
    # Source: the closed forms derived from |a x + b y|^2 = a^2 + b^2 + 2 a b x.y for unit x, y.
    query, queue = unit(3, 12), unit(40, 12, seed=1)
    cosines = query @ queue.T
    pool = hardest(cosines, 10)
    draws = draw_mixing(1, torch.arange(3), pool.sizes, s=8, s_prime=8)
    closed = logits_from_draws(query, queue, cosines, pool, draws)
    for b in range(3):
        for t in range(8):
            i, j = (int(pool.rows[b, p[b, t]]) for p in (draws.first, draws.second))
            a, g = float(draws.alpha[b, t]), float(queue[i] @ queue[j])
            norm = math.sqrt(a**2 + (1 - a) ** 2 + 2 * a * (1 - a) * g)
            expected = (a * cosines[b, i] + (1 - a) * cosines[b, j]) / norm
            torch.testing.assert_close(closed[b, t], expected)
            c = float(cosines[b, pool.rows[b, draws.parent[b, t]]])
            beta = float(draws.beta[b, t])
            norm = math.sqrt(beta**2 + (1 - beta) ** 2 + 2 * beta * (1 - beta) * c)
            assert float(closed[b, 8 + t]) == pytest.approx((beta + (1 - beta) * c) / norm)


@pytest.mark.parametrize("seed", range(3))
def test_synthetic_points_are_as_hard_as_the_bounds_say(seed: int) -> None:
    """c <= q.h' <= sqrt((1 + c) / 2), and q.h >= min(c_i, c_j) for non-negative parents."""
    query = unit(8, 6, seed=seed)
    queue = unit(200, 6, seed=seed + 100)
    cosines = query @ queue.T
    pool = hardest(cosines, 20)
    draws = draw_mixing(seed, torch.arange(8), pool.sizes, s=100, s_prime=100)
    closed = logits_from_draws(query, queue, cosines, pool, draws)
    pairs, mixed = closed[:, :100], closed[:, 100:]
    top = cosines.gather(1, pool.rows)
    assert (top >= 0).all()
    first, second, parent = (top.gather(1, p) for p in (draws.first, draws.second, draws.parent))
    assert (pairs >= torch.minimum(first, second) - 1e-12).all()
    assert (pairs > torch.maximum(first, second)).any()  # it may exceed both
    assert (mixed >= parent).all()
    assert (mixed <= ((1 + parent) / 2).sqrt() + 1e-12).all()


def test_synthetic_negatives_raise_the_loss() -> None:
    query, key, queue = unit(6, 16), unit(6, 16, seed=1), unit(50, 16, seed=2)
    plain = loss_of(query, key, queue, query.new_zeros(6, 0))
    for s, s_prime in ((1, 0), (0, 1), (20, 0), (0, 20), (20, 20)):
        synthetic = mixed_logits(query, queue, 1, n_hard=10, s=s, s_prime=s_prime)
        assert loss_of(query, key, queue, synthetic) > plain


@pytest.mark.parametrize(
    ("size", "s", "s_prime", "expected"),
    [(16384, 0, 0, 9.7041), (16384, 1024, 128, 9.7721), (65536, 1024, 512, 11.1135)],
)
def test_equal_vectors_give_the_chance_level(
    size: int, s: int, s_prime: int, expected: float
) -> None:
    same = normalize(torch.ones(1, 4), dim=1)
    queue = same.expand(size, 4).contiguous()
    synthetic = mixed_logits(same, queue, 1, n_hard=128, s=s, s_prime=s_prime)
    loss = float(loss_of(same, same, queue, synthetic))
    assert loss == pytest.approx(math.log(1 + size + s + s_prime), abs=2e-5)
    assert loss == pytest.approx(expected, abs=1e-4)


def mixed_case(
    s: int, s_prime: int, detach_query: bool = True, dim: int = 24, size: int = 10, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return a query that asks for gradient, its key, queue, points, and closed-form logits."""
    query = unit(3, dim, seed=seed).requires_grad_()
    key, queue = unit(3, dim, seed=seed + 1), unit(size, dim, seed=seed + 2)
    pool = hardest(query @ queue.T, 5)
    draws = draw_mixing(seed, torch.arange(3), pool.sizes, s=s, s_prime=s_prime)
    options = {"detach_query": detach_query}
    points = points_from_draws(query, queue, pool, draws, **options)
    closed = logits_from_draws(query, queue, query @ queue.T, pool, draws, **options)
    return query, key, queue, points, closed


@pytest.mark.parametrize(("s", "s_prime"), [(7, 0), (0, 7), (7, 5)])
def test_the_gradient_of_the_query_is_the_analytic_one(s: int, s_prime: int) -> None:
    # Source: -(1/tau) [(1 - p_k) k - sum p_n n - sum p_h h], derived by hand for the softmax.
    query, key, queue, points, closed = mixed_case(s, s_prime)
    torch.autograd.backward(loss_of(query, key, queue, closed))
    with torch.no_grad():
        negatives = torch.cat([queue.expand(3, -1, -1), points], dim=1)
        scores = torch.cat(
            [
                (query * key).sum(1, keepdim=True),
                torch.einsum("bd,bnd->bn", query, negatives),
            ],
            dim=1,
        )
        p = (scores / TEMPERATURE).softmax(dim=1)
        pulled = torch.einsum("bn,bnd->bd", p[:, 1:], negatives)
        analytic = -((1 - p[:, :1]) * key - pulled) / TEMPERATURE / len(query)
    torch.testing.assert_close(query.grad, analytic, rtol=1e-10, atol=1e-12)


def test_the_tangent_gradient_lies_in_the_span_of_key_and_queue() -> None:
    """Mixing adds no direction: synthetic points only re-weigh the rows that are there."""
    query, key, queue, _, closed = mixed_case(7, 5)
    torch.autograd.backward(loss_of(query, key, queue, closed))
    assert query.grad is not None
    for b in range(3):
        q = query[b].detach()
        project = torch.eye(24, dtype=q.dtype) - torch.outer(q, q)
        span = (torch.cat([key[b : b + 1], queue]) @ project).T
        tangent = project @ query.grad[b]
        coefficients = torch.linalg.lstsq(span, tangent[:, None]).solution
        torch.testing.assert_close((span @ coefficients)[:, 0], tangent, rtol=1e-9, atol=1e-11)


def test_detaching_the_query_matters_to_query_mixed_points_only() -> None:
    gradients = []
    for detach_query in (True, False):
        query, key, queue, _, closed = mixed_case(7, 0, detach_query)
        gradients.append(torch.autograd.grad(loss_of(query, key, queue, closed), query)[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("beta", [0.01, 0.2, 0.4999])
def test_without_detaching_the_tangent_pull_of_a_query_mixed_point_shrinks(beta: float) -> None:
    # Source: factor 1 - beta (beta + (1 - beta) c) / |u|^2, derived by hand.
    query, queue = unit(1, 6), unit(2, 6, seed=1)
    c = float(query[0] @ queue[1])
    query.requires_grad_()
    none = torch.zeros(1, 0)
    draws = MixingDraws(none.long(), none.long(), none, torch.tensor([[1]]), torch.tensor([[beta]]))
    pool = HardPool(torch.tensor([[0, 1]]), torch.tensor([2]))
    tangents = []
    for detach_query in (True, False):
        logit = logits_from_draws(
            query, queue, query @ queue.T, pool, draws, detach_query=detach_query
        )
        gradient = torch.autograd.grad(logit.sum(), query)[0][0]
        q = query[0].detach()
        tangents.append(gradient - (gradient @ q) * q)
    share = float(draws.beta)  # float32
    square = share**2 + (1 - share) ** 2 + 2 * share * (1 - share) * c
    factor = 1 - share * (share + (1 - share) * c) / square
    torch.testing.assert_close(tangents[1], tangents[0] * factor)


def test_opposites_in_equal_shares_give_finite_logits() -> None:
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    queue = torch.tensor([[-1.0000001, 0.0], [1.0, 0.0]])
    half, one = torch.tensor([[0.5]]), torch.tensor([[1]])
    draws = MixingDraws(one - 1, one, half, one - 1, half)
    pool = HardPool(torch.tensor([[0, 1]]), torch.tensor([2]))
    logits = logits_from_draws(query, queue, query @ queue.T, pool, draws)
    torch.autograd.backward(logits.sum())
    assert logits.isfinite().all()
    assert query.grad is not None
    assert query.grad.isfinite().all()


def test_no_gradient_reaches_the_queue() -> None:
    query, queue = unit(3, 8).requires_grad_(), unit(20, 8, seed=1).requires_grad_()
    cosines = query @ queue.detach().T
    torch.autograd.backward(
        mixed_logits(query, queue, 1, cosines=cosines, n_hard=5, s=4, s_prime=4).sum()
    )
    assert queue.grad is None
    assert query.grad is not None


def test_synthetic_cosines_do_not_depend_on_the_temperature() -> None:
    """They are made from cosines, so the common division is the only one."""
    query, key, queue = unit(3, 8), unit(3, 8, seed=1), unit(20, 8, seed=2)
    synthetic = mixed_logits(query, queue, 1, n_hard=5, s=4, s_prime=4)
    assert synthetic.abs().max() <= 1 + 1e-12
    joined = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T, synthetic], dim=1)
    expected = torch.logsumexp(joined / TEMPERATURE, 1) - joined[:, 0] / TEMPERATURE
    torch.testing.assert_close(loss_of(query, key, queue, synthetic), expected.mean())


def test_the_closed_form_compiles_to_the_same_numbers() -> None:
    query, queue = unit(3, 16, dtype=torch.float32), unit(64, 16, seed=1, dtype=torch.float32)
    cosines = query @ queue.T
    pool = hardest(cosines, 8)
    draws = draw_mixing(1, torch.arange(3), pool.sizes, s=6, s_prime=5)
    compiled = torch.compile(logits_from_draws, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(query, queue, cosines, pool, draws),
        logits_from_draws(query, queue, cosines, pool, draws),
    )
