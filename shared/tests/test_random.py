import math
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retable import random

KEY = random.derive_key(0, "tests")
DRAWS: dict[str, Callable[[int, Tensor], Tensor]] = {
    "uniform": random.uniform,
    "normal": random.normal,
    "integers": lambda rng_key, counters: random.integers(rng_key, counters, 1000),
    "beta": lambda rng_key, counters: random.beta(rng_key, counters, 2.0, 1.6),
}


def counters(n: int) -> Tensor:
    return torch.arange(n)


def furthest_from(sample: Tensor, distribution: Callable[[Tensor], Tensor]) -> float:
    """Return the statistic of Kolmogorov and Smirnov; its 0.1 % point is 1.95."""
    ordered = sample.double().sort().values
    steps = torch.arange(len(ordered) + 1, dtype=torch.float64) / len(ordered)
    expected = distribution(ordered)
    distance = torch.maximum((steps[1:] - expected).abs(), (expected - steps[:-1]).abs())
    return float(distance.max()) * math.sqrt(len(ordered))


# What all draws have in common


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_draw_depends_on_its_key_and_counter_alone(draw: Callable[..., Tensor]) -> None:
    whole = draw(KEY, counters(40))
    assert torch.equal(draw(KEY, counters(40).view(5, 8)), whole.view(5, 8))
    assert torch.equal(draw(KEY, counters(40)[7:9]), whole[7:9])
    assert not torch.equal(draw(KEY + 1, counters(40)), whole)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_in_chunks_equal_draws_at_once(draw: Callable[..., Tensor]) -> None:
    many = counters(300 * 500).view(300, 500)
    whole = draw(KEY, many)
    assert whole.shape == many.shape
    assert torch.equal(whole, torch.cat([draw(KEY, part) for part in torch.split(many, 37)]))
    assert torch.equal(draw(KEY, many.T), whole.T)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_leave_the_global_generator_alone(draw: Callable[..., Tensor]) -> None:
    before = torch.random.get_rng_state()
    draw(KEY, counters(10))
    random.permutation(KEY, 10)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_neighbouring_counters_and_keys_are_independent(draw: Callable[..., Tensor]) -> None:
    n = 100_000
    sample = draw(KEY, counters(n + 1)).double()
    for other in (sample[1:], draw(KEY + 1, counters(n)).double()):
        correlation = torch.corrcoef(torch.stack([sample[:-1], other]))[0, 1]
        assert abs(float(correlation)) < 4 / math.sqrt(n)


# Beta


# Distribution functions in closed form, and those of order statistics of n uniform draws: the
# k-th smallest is Beta(k, n + 1 - k), so its distribution function is a sum over binomials.
def order_statistic(k: int, n: int) -> Callable[[Tensor], Tensor]:
    def distribution(x: Tensor) -> Tensor:
        terms = [float(math.comb(n, j)) * x**j * (1 - x) ** (n - j) for j in range(k, n + 1)]
        return torch.stack(terms).sum(dim=0)

    return distribution


DISTRIBUTIONS: dict[tuple[float, float], Callable[[Tensor], Tensor]] = {
    (1.0, 1.0): lambda x: x,
    (2.0, 1.0): lambda x: x**2,
    (1.0, 3.5): lambda x: 1 - (1 - x) ** 3.5,
    (0.2, 1.0): lambda x: x**0.2,
    (0.5, 0.5): lambda x: 2 / math.pi * x.sqrt().asin(),
    (2.0, 2.0): order_statistic(2, 3),
    (5.0, 2.0): order_statistic(5, 6),
    (40.0, 60.0): order_statistic(40, 99),
}


@pytest.mark.parametrize(("a", "b"), DISTRIBUTIONS)
def test_beta_quantiles_invert_the_distribution_function(a: float, b: float) -> None:
    shares = (torch.arange(1 << 18) + 0.5) / (1 << 18)
    found = DISTRIBUTIONS[a, b](random.beta_quantile(shares, a, b).double())
    error = (found - shares.double()).abs()
    assert error.max() < 2e-4
    assert error[200:-200].max() < 1.5e-5 or (a, b) == (0.5, 0.5)  # float32 is coarse below 1


@pytest.mark.parametrize(("a", "b"), DISTRIBUTIONS)
def test_beta_draws_follow_their_distribution(a: float, b: float) -> None:
    sample = random.beta(KEY, counters(20_000), a, b)
    assert furthest_from(sample, DISTRIBUTIONS[a, b]) < 1.95


@settings(deadline=None, max_examples=30)
@given(a=st.floats(0.1, 100), b=st.floats(0.1, 100))
def test_beta_draws_have_the_moments_of_their_parameters(a: float, b: float) -> None:
    # Source: mean a / (a + b), variance a b / ((a + b)^2 (a + b + 1)). Even shares integrate better
    # than random ones; float32 rounds what lies close to 1.
    shares = (torch.arange(1 << 16) + 0.5) / (1 << 16)
    values = random.beta_quantile(shares, a, b).double()
    variance = a * b / ((a + b) ** 2 * (a + b + 1))
    assert float(values.mean()) == pytest.approx(a / (a + b), abs=1e-4)
    assert float(values.var()) == pytest.approx(variance, abs=1e-4)


@pytest.mark.parametrize("a", [0.2, 1.6, 2.0])
def test_shares_above_a_half_have_the_papers_frequency(a: float) -> None:
    # Source: E[w] = 1/2 and E[w (1 - w)] = a / (2 (2 a + 1)): 0.1905 at 1.6, 0.2 at 2.
    weight = random.beta(KEY, counters(200_000), a, a).double()
    product = a / (2 * (2 * a + 1))
    assert float(weight.mean()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(200_000))
    assert float((weight * (1 - weight)).mean()) == pytest.approx(product, abs=1e-3)


@settings(deadline=None, max_examples=50)
@given(
    a=st.floats(0.1, 100),
    b=st.floats(0.1, 100),
    shares=st.lists(st.floats(2.0**-24, 1 - 2.0**-24, width=32, allow_subnormal=False), min_size=2),
)
def test_beta_quantiles_rise_inside_the_open_interval(
    a: float, b: float, shares: list[float]
) -> None:
    ordered = torch.tensor(sorted(shares))
    values = random.beta_quantile(ordered, a, b)
    assert values.dtype == torch.float32
    assert values.min() > 0
    assert values.max() < 1
    assert (values.diff() >= 0).all()


def test_swapped_parameters_mirror_the_quantiles() -> None:
    shares = torch.linspace(0.01, 0.99, 99)
    mirrored = 1 - random.beta_quantile(1 - shares, 2.0, 0.7)
    torch.testing.assert_close(random.beta_quantile(shares, 0.7, 2.0), mirrored, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("a", "b"), [(0.0, 1.0), (1.0, 0.09), (-1.0, 1.0), (101.0, 1.0), (math.inf, 1.0), (1, math.nan)]
)
def test_beta_refuses_parameters_that_its_table_cannot_hold(a: float, b: float) -> None:
    message = f"must be in [0.1, 100], got ({a:g}, {b:g})"
    with pytest.raises(ValueError, match=re.escape(message)):
        random.beta(KEY, counters(1), a, b)


# Permutations


@settings(deadline=None, max_examples=50)
@given(
    n=st.integers(0, 300), rng_key=st.integers(-(2**63), 2**63 - 1), number=st.integers(0, 10**6)
)
def test_a_permutation_holds_every_place_once(n: int, rng_key: int, number: int) -> None:
    order = random.permutation(rng_key, n, number=number)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(n))
    assert torch.equal(order, random.permutation(rng_key, n, number=torch.tensor(number)))


def test_all_permutations_are_equally_likely() -> None:
    # Chi-square over the 24 orders of four; the 1 % point for 23 degrees of freedom is 41.6.
    counts: dict[tuple[int, ...], int] = {}
    for number in range(4800):
        order = tuple(random.permutation(KEY, 4, number=number).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 41.6


def test_permutations_of_other_keys_and_numbers_are_others() -> None:
    orders = {tuple(random.permutation(KEY + i, 50).tolist()) for i in range(5)}
    orders |= {tuple(random.permutation(KEY, 50, number=i).tolist()) for i in range(5)}
    assert len(orders) == 9  # number 0 is the default
