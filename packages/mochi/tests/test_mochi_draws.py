from typing import Any

import torch
from torch import Tensor

from mochi.draws import MixingDraws, draw_mixing


def draw(sizes: Tensor, rng_key: int = 5, **counts: Any) -> MixingDraws:
    return draw_mixing(rng_key, torch.arange(len(sizes)), sizes, **counts)


def chi_square(counts: Tensor, expected: float) -> float:
    return float(((counts - expected).square() / expected).sum())


def test_coefficients_are_inside_their_open_intervals() -> None:
    draws = draw(torch.full((64,), 10), s=500, s_prime=500, beta_max=0.5)
    assert draws.alpha.min() > 0
    assert draws.alpha.max() < 1
    assert draws.beta.min() > 0
    assert draws.beta.max() < 0.5


def test_coefficients_are_uniform() -> None:
    draws = draw(torch.full((64,), 10), s=500, s_prime=500)
    for sample in (draws.alpha.flatten(), draws.beta.flatten() * 2):
        # Kolmogorov-Smirnov against the uniform distribution; 1.95 is the 0.1 % point.
        ordered = sample.double().sort().values
        grid = torch.arange(1, len(ordered) + 1) / len(ordered)
        assert (ordered - grid).abs().max() * len(ordered) ** 0.5 < 1.95


def test_coefficients_differ_between_queries_and_between_points() -> None:
    draws = draw(torch.full((8,), 10), s=8, s_prime=8)
    for coefficients in (draws.alpha, draws.beta):
        assert len(set(coefficients.flatten().tolist())) > 60


def test_parents_of_a_pair_are_distinct_and_all_ordered_pairs_equally_likely() -> None:
    # Chi-square over the N (N - 1) ordered pairs; 1 % point for 29 degrees of freedom is 49.6.
    size = 6
    draws = draw(torch.full((100,), size), s=300, s_prime=0)
    assert (draws.first != draws.second).all()
    counts = torch.bincount((draws.first * size + draws.second).flatten(), minlength=size**2)
    off_diagonal = counts.view(size, size)[~torch.eye(size, dtype=torch.bool)].double()
    assert chi_square(off_diagonal, 30000 / 30) < 49.6


def test_parents_of_query_mixed_points_are_uniform() -> None:
    # 1 % point of chi-square with 6 degrees of freedom is 16.8.
    draws = draw(torch.full((100,), 7), s=0, s_prime=210)
    assert chi_square(torch.bincount(draws.parent.flatten()).double(), 3000) < 16.8


def test_positions_and_coefficients_are_independent() -> None:
    draws = draw(torch.full((200,), 16), s=500, s_prime=500)
    for a, b in (
        (draws.first, draws.alpha),
        (draws.second, draws.alpha),
        (draws.parent, draws.beta),
    ):
        correlation = torch.corrcoef(torch.stack([a.flatten().float(), b.flatten()]))[0, 1]
        assert abs(correlation) < 4 / 100000**0.5


def test_pools_of_one_and_of_none_give_valid_positions() -> None:
    draws = draw(torch.tensor([1, 0, 2]), s=50, s_prime=50)
    assert draws.first[:2].eq(0).all()
    assert draws.second[:2].eq(0).all()
    assert draws.parent[:2].eq(0).all()
    assert (draws.first[2] + draws.second[2]).eq(1).all()


def test_draws_cover_each_pool_and_nothing_beyond() -> None:
    sizes = torch.tensor([3, 5])
    draws = draw(sizes, s=200, s_prime=200)
    for positions in (draws.first, draws.second, draws.parent):
        assert positions.amax(dim=1).tolist() == [2, 4]
        assert positions.amin(dim=1).tolist() == [0, 0]


def test_more_points_than_pool_members_may_be_drawn() -> None:
    draws = draw(torch.full((2,), 4), s=4096, s_prime=2048)
    assert draws.first.shape == (2, 4096)
    assert draws.parent.shape == (2, 2048)


def test_keyed_draws_of_a_split_batch_are_those_of_the_whole() -> None:
    sizes = torch.full((8,), 9)
    whole = draw_mixing(7, torch.arange(8), sizes, s=5, s_prime=3)
    for part in (slice(0, 3), slice(3, 8)):
        split = draw_mixing(7, torch.arange(8)[part], sizes[part], s=5, s_prime=3)
        assert all(torch.equal(a[part], b) for a, b in zip(whole, split, strict=True))


def test_keyed_draws_do_not_touch_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    draw_mixing(7, torch.arange(8), torch.full((8,), 9), s=5, s_prime=3)
    assert torch.equal(before, torch.random.get_rng_state())
