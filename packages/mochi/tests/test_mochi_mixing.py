import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mochi import mix_hard_negatives, mixed_logits
from mochi.draws import MixingDraws, draw_mixing
from mochi.mixing import points_from_draws
from mochi.pool import HardPool, hardest
from retable.errors import UserError


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def one_pair(first: int, second: int, alpha: float) -> tuple[HardPool, MixingDraws]:
    """Mix rows 0 and 1 of a queue as pair and nothing else."""
    none = torch.zeros(1, 0)
    draws = MixingDraws(
        torch.tensor([[first]]),
        torch.tensor([[second]]),
        torch.tensor([[alpha]]),
        none.long(),
        none,
    )
    return HardPool(torch.tensor([[0, 1]]), torch.tensor([2])), draws


def one_query_mixed(parent: int, beta: float) -> tuple[HardPool, MixingDraws]:
    none = torch.zeros(1, 0)
    draws = MixingDraws(
        none.long(), none.long(), none, torch.tensor([[parent]]), torch.tensor([[beta]])
    )
    return HardPool(torch.tensor([[0, 1]]), torch.tensor([2])), draws


@pytest.mark.parametrize(("s", "s_prime"), [(5, 3), (0, 3), (5, 0), (0, 0)])
def test_points_are_unit_vectors_without_gradient(s: int, s_prime: int) -> None:
    query = unit(4, 16).requires_grad_()
    points = mix_hard_negatives(query, unit(64, 16, seed=1), 1, n_hard=8, s=s, s_prime=s_prime)
    assert points.shape == (4, s + s_prime, 16)
    assert not points.requires_grad
    torch.testing.assert_close(points.norm(dim=2), torch.ones(4, s + s_prime).double())


def test_points_equal_the_papers_formula_in_plain_loops() -> None:
    # Source: MoCHi, sections 3.2 and 3.3, written out; the pools by a full sort.
    query, queue = unit(3, 10), unit(50, 10, seed=1)
    pool = hardest(query @ queue.T, 6)
    draws = draw_mixing(3, torch.arange(3), pool.sizes, s=9, s_prime=7)
    points = points_from_draws(query, queue, pool, draws)
    for b in range(3):
        ranking = sorted(range(50), key=lambda k: -float(query[b] @ queue[k]))[:6]
        for t in range(9):
            a = float(draws.alpha[b, t])
            n_i, n_j = (queue[ranking[int(p[b, t])]] for p in (draws.first, draws.second))
            u = a * n_i + (1 - a) * n_j
            torch.testing.assert_close(points[b, t], u / u.norm())
        for t in range(7):
            beta = float(draws.beta[b, t])
            u = beta * query[b] + (1 - beta) * queue[ranking[int(draws.parent[b, t])]]
            torch.testing.assert_close(points[b, 9 + t], u / u.norm())


def test_each_query_mixes_its_own_pool() -> None:
    """Queries whose pools are disjoint halves of the axes: a wrong batch index leaves the half."""
    queue = torch.eye(8)
    query = normalize(torch.tensor([[1.0] * 4 + [0.0] * 4, [0.0] * 4 + [1.0] * 4]), dim=1)
    points = mix_hard_negatives(query, queue, 1, n_hard=4, s=200, s_prime=200)
    assert points[0, :, 4:].abs().max() == 0
    assert points[1, :, :4].abs().max() == 0
    # every pair is used, not only the first member
    used = (points[:, :200] > 0).any(dim=1)
    assert used[0, :4].all()
    assert used[1, 4:].all()


def test_a_pair_mixed_point_has_exactly_two_parents_in_its_querys_pool() -> None:
    queue = torch.eye(32)  # parents can be read off the non-zero entries
    query = unit(5, 32, dtype=torch.float32)
    points = mix_hard_negatives(query, queue, 1, n_hard=6, s=50, s_prime=0)
    for b in range(5):
        top = set(query[b].argsort(descending=True)[:6].tolist())
        for point in points[b]:
            parents = set(point.nonzero().flatten().tolist())
            assert len(parents) == 2
            assert parents <= top


def test_the_ends_of_the_coefficients_are_the_parents() -> None:
    query, queue = unit(1, 6), unit(2, 6, seed=1)
    for alpha, parent in ((1.0, 0), (0.0, 1)):
        point = points_from_draws(query, queue, *one_pair(0, 1, alpha))[0, 0]
        torch.testing.assert_close(point, queue[parent])
    point = points_from_draws(query, queue, *one_query_mixed(1, 0.0))[0, 0]
    torch.testing.assert_close(point, queue[1])


def test_half_query_half_negative_is_the_bisector() -> None:
    query, queue = unit(1, 6), unit(2, 6, seed=1)
    point = points_from_draws(query, queue, *one_query_mixed(1, 0.5))[0, 0]
    cosine = query[0] @ queue[1]
    torch.testing.assert_close(query[0] @ point, ((1 + cosine) / 2).sqrt())
    torch.testing.assert_close(queue[1] @ point, ((1 + cosine) / 2).sqrt())


def test_opposite_parents_in_equal_shares_give_zero_and_no_nan() -> None:
    queue = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    point = points_from_draws(unit(1, 2).float(), queue, *one_pair(0, 1, 0.5))
    assert point.abs().max() == 0


def test_a_bound_on_the_query_share_is_respected() -> None:
    queue = torch.eye(4)[1:]
    query = torch.eye(4)[:1]
    points = mix_hard_negatives(query, queue, 1, n_hard=3, s=0, s_prime=500, beta_max=0.2)[0]
    own, other = points[:, 0], points[:, 1:].amax(dim=1)
    share = own / (own + other)
    assert share.min() > 0
    assert 0.19 < share.max() < 0.2


def test_equal_keys_give_equal_points_and_other_keys_others() -> None:
    query, queue = unit(2, 8), unit(32, 8, seed=1)
    counts: dict[str, Any] = {"n_hard": 8, "s": 5, "s_prime": 5}
    one, again, other = (mix_hard_negatives(query, queue, key, **counts) for key in (2, 2, 3))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("function", [mix_hard_negatives, mixed_logits])
def test_a_batch_that_is_split_by_position_mixes_the_same(function: Any) -> None:
    query, queue = unit(4, 8), unit(32, 8, seed=1)
    counts: dict[str, Any] = {"n_hard": 8, "s": 5, "s_prime": 5}
    whole = function(query, queue, 2, **counts)
    parts = [
        function(query[rows], queue, 2, torch.arange(4)[rows], **counts)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)


def test_given_cosines_replace_the_product_and_nothing_else() -> None:
    query, queue = unit(2, 8), unit(32, 8, seed=1)
    counts: dict[str, Any] = {"n_hard": 8, "s": 5, "s_prime": 5}
    one = mix_hard_negatives(query, queue, 2, **counts)
    other = mix_hard_negatives(query, queue, 2, **counts, cosines=query @ queue.T)
    assert torch.equal(one, other)


def test_half_precision_inputs_are_mixed_in_float32() -> None:
    query, queue = unit(2, 8).bfloat16(), unit(32, 8, seed=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        points = mix_hard_negatives(query, queue, 1, n_hard=8, s=5, s_prime=5)
        logits = mixed_logits(query, queue, 1, n_hard=8, s=5, s_prime=5)
    assert points.dtype == logits.dtype == torch.float32


def test_more_points_than_hard_negatives() -> None:
    points = mix_hard_negatives(unit(2, 8), unit(32, 8, seed=1), 1, n_hard=4, s=40, s_prime=50)
    assert points.shape == (2, 90, 8)


def test_masked_rows_are_never_parents() -> None:
    queue = torch.eye(8)
    query = unit(2, 8, dtype=torch.float32)
    allowed = torch.tensor([[True] * 3 + [False] * 5, [False] * 7 + [True]])
    points = mix_hard_negatives(query, queue, 1, n_hard=4, s=50, s_prime=0, allowed=allowed)
    assert points[0, :, 3:].abs().max() == 0
    assert torch.equal(points[1], torch.eye(8)[7].expand(50, 8))


def test_a_query_without_negatives_gets_nan_points_and_excluded_logits() -> None:
    query, queue = unit(2, 8), unit(32, 8, seed=1)
    allowed = torch.ones(2, 32, dtype=torch.bool)
    allowed[1] = False
    counts: dict[str, Any] = {"n_hard": 4, "s": 3, "s_prime": 3, "allowed": allowed}
    points = mix_hard_negatives(query, queue, 1, **counts)
    assert points[0].isfinite().all()
    assert points[1].isnan().all()
    logits = mixed_logits(query, queue, 1, **counts)
    assert logits[0].isfinite().all()
    assert (logits[1] == -math.inf).all()


@pytest.mark.parametrize("function", [mix_hard_negatives, mixed_logits])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_hard": 33}, "`n_hard` must be .* the queue's 32 rows, got 33"),
        ({"s": -1}, "must be 0 or more, got -1 and"),
        ({"beta_max": 0.0}, r"must be in \(0, 1\], got 0.0"),
        ({"beta_max": 1.5}, r"must be in \(0, 1\], got 1.5"),
        (
            {"queue": torch.zeros(32, 7, dtype=torch.float64)},
            r"`queue` must have shape \(K, 8\), got \(32, 7\)",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_user_errors(
    function: Callable[..., Tensor], change: dict[str, Any], sentence: str
) -> None:
    arguments = {"query": unit(2, 8), "queue": unit(32, 8), "n_hard": 4, "s": 2, "s_prime": 2}
    arguments |= change
    with pytest.raises(UserError, match=sentence):
        function(arguments.pop("query"), arguments.pop("queue"), 1, **arguments)
