"""Intervals follow Student's t: cases by hand, closed forms, integrals, simulated coverage."""

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retable.errors import UserError
from retable.random import derive_key, normal
from retable.tables.statistics import (
    Interval,
    Spread,
    difference_of_means,
    larger,
    mean_of_differences,
    moderated,
    pooled,
    spread_of,
    spread_of_pairs,
    student_quantile,
)

finite = st.floats(-1e3, 1e3)


def half_width(interval: Interval) -> float:
    return (interval.high - interval.low) / 2


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.706), (2, 4.303), (4, 2.776), (5, 2.571), (10, 2.228), (20, 2.086), (100, 1.984)],
)
def test_quantiles_agree_with_printed_tables(degrees: float, quantile: float) -> None:
    # Source: the two-sided 95 % column of any table of Student's t (Student, 1908; Fisher, 1925).
    assert student_quantile(0.975, degrees) == pytest.approx(quantile, abs=5e-4)


@given(st.floats(0.5, 0.9999))
def test_one_and_two_degrees_of_freedom_have_closed_forms(probability: float) -> None:
    # Source: with 1 degree Student's t is Cauchy; with 2 its distribution function is algebraic.
    cauchy = math.tan(math.pi * (probability - 0.5))
    assert student_quantile(probability, 1) == pytest.approx(cauchy, rel=1e-8, abs=1e-7)
    two = (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    assert student_quantile(probability, 2) == pytest.approx(two, rel=1e-8, abs=1e-7)


def test_quantiles_approach_the_normal_distribution() -> None:
    assert student_quantile(0.975, 1e7) == pytest.approx(1.9599640, abs=1e-6)


def tail(t: float, degrees: float) -> float:
    """P(T > t) by Simpson's rule over the density of Student's t, in x = t + s u / (1 - u)."""
    log_front = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    front = math.exp(log_front) / math.sqrt(degrees * math.pi)
    count, scale = 2000, max(t, 1.0)

    def density(place: int) -> float:
        u = place / count
        x = t + scale * u / (1 - u)
        return scale * front * math.pow(1 + x * x / degrees, -(degrees + 1) / 2) / (1 - u) ** 2

    inner = math.fsum((4 if place % 2 else 2) * density(place) for place in range(1, count))
    last = front / scale if degrees == 1 else 0.0  # the limit at u = 1
    return (density(0) + inner + last) / (3 * count)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4.5, 8, 20, 64])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.9975, 0.99995])
def test_quantile_inverts_the_integral_of_the_density(probability: float, degrees: float) -> None:
    found = tail(student_quantile(probability, degrees), degrees)
    assert found == pytest.approx(1 - probability, rel=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio"),
    [
        # By hand: the tail of F(2, 2) at a ratio r of variances is 1 / (1 + r), 1 % at 99.
        (3, 2, 99.0),
        # F(1, 4) is the square of t with 4 degrees, whose two-sided 99 % point is 4.60409.
        (2, 4, 4.60409**2),
        # F(2, 1): the tail is 1 / sqrt(1 + 2 r), 1 % at 4999.5.
        (3, 1, 4999.5),
    ],
)
def test_spreads_are_pooled_up_to_the_1_percent_point_of_f(
    ours: int, theirs: float, ratio: float
) -> None:
    runs = [-1.0, 0.0, 1.0] if ours == 3 else [-math.sqrt(0.5), math.sqrt(0.5)]  # std 1
    for factor, is_pooled in ((0.999, True), (1.001, False)):
        reference = Spread(1 / math.sqrt(ratio * factor), theirs)
        interval = difference_of_means(runs, 0.0, 5, reference)
        assert interval is not None
        common = pooled([Spread(1.0, ours - 1), reference])
        assert common is not None
        error = common.std * math.sqrt(1 / ours + 1 / 5)
        half = student_quantile(0.975, common.degrees) * error
        assert (half_width(interval) == pytest.approx(half, rel=1e-9)) is is_pooled


def test_without_scipy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match=r"A verdict needs scipy.*the extra `train` of retable"):
        difference_of_means([1.0, 2.0], 0.0, 2, None)


def test_interval_of_two_small_samples_by_hand() -> None:
    # By hand: means 2 and 0, both std sqrt(2) with 1 degree; pooled std sqrt(2) with 2 degrees,
    # standard error sqrt(2) * sqrt(1/2 + 1/2), t(0.975, 2) = 4.302653.
    interval = difference_of_means([1.0, 3.0], 0.0, 2, Spread(math.sqrt(2), 1))
    assert interval is not None
    assert interval.centre == 2.0
    assert half_width(interval) == pytest.approx(4.302653 * math.sqrt(2), rel=1e-6)


def test_a_single_run_takes_the_spread_of_the_other_side() -> None:
    # By hand: t(0.975, 4) = 2.776445, error 0.5 * sqrt(1 + 1/5).
    interval = difference_of_means([10.0], 9.0, 5, Spread(0.5, 4))
    assert interval is not None
    assert half_width(interval) == pytest.approx(2.776445 * 0.5 * math.sqrt(1.2), rel=1e-6)
    # The reverse: five runs of ours against one printed number without a std.
    ours = [9.0, 9.5, 10.0, 10.5, 11.0]  # std sqrt(0.625)
    interval = difference_of_means(ours, 9.0, 1, None)
    assert interval is not None
    assert half_width(interval) == pytest.approx(2.776445 * math.sqrt(0.625 * 1.2), rel=1e-6)


def test_two_single_runs_without_any_spread_have_no_interval() -> None:
    assert difference_of_means([1.0], 1.0, 1, None) is None
    assert mean_of_differences([0.5]) is None


def test_spreads_that_differ_beyond_chance_are_not_pooled() -> None:
    # By hand, Welch: ours std 10 over 3 runs, theirs 0.1 over 5; the error is ours alone, and the
    # degrees of freedom are close to ours, 2.
    ours = [-10.0, 0.0, 10.0]
    interval = difference_of_means(ours, 0.0, 5, Spread(0.1, 4))
    assert interval is not None
    error = math.sqrt(100 / 3 + 0.01 / 5)
    assert half_width(interval) == pytest.approx(4.302653 * error, rel=1e-3)


def test_a_second_seed_does_not_widen_the_interval() -> None:
    one = difference_of_means([10.0], 9.0, 5, Spread(0.5, 4))
    two = difference_of_means([9.5, 10.5], 9.0, 5, Spread(0.5, 4))  # std 0.71: larger than theirs
    assert one is not None
    assert two is not None
    assert half_width(two) < half_width(one)


def test_a_std_of_zero_gives_an_interval_of_no_width() -> None:
    interval = difference_of_means([3.0], 3.0, 5, Spread(0.0, 4))
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 0.0)
    unstable = difference_of_means([2.0, 4.0], 3.0, 5, Spread(0.0, 4))
    assert unstable is not None
    assert half_width(unstable) == pytest.approx(
        12.7062, rel=1e-4
    )  # t(0.975, 1) times sqrt(2)/sqrt(2)


def test_paired_differences_by_hand() -> None:
    # By hand: mean 2, std 1, three pairs, t(0.975, 2) = 4.302653.
    interval = mean_of_differences([1.0, 2.0, 3.0])
    assert interval is not None
    assert half_width(interval) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    # One pair with a stand-in: t(0.975, 4) = 2.776445 times its std.
    interval = mean_of_differences([1.0], Spread(0.3, 4))
    assert interval is not None
    assert half_width(interval) == pytest.approx(0.8329335)


@given(st.lists(finite, min_size=2, max_size=6), finite, st.floats(0.01, 10.0))
def test_intervals_are_centred_and_shift_with_the_reference(
    ours: list[float], value: float, std: float
) -> None:
    a = difference_of_means(ours, value, 3, Spread(std, 2))
    b = difference_of_means(ours, value + 1.0, 3, Spread(std, 2))
    assert a is not None
    assert b is not None
    assert a.low <= a.centre <= a.high
    assert (a.low + a.high) / 2 == pytest.approx(a.centre, abs=1e-6)
    assert half_width(b) == pytest.approx(half_width(a), rel=1e-6, abs=1e-9)
    assert b.centre == pytest.approx(a.centre - 1.0, abs=1e-6)


def test_the_larger_std_counts_with_the_larger_number_of_degrees() -> None:
    assert larger(Spread(0.2, 1), Spread(0.39, 4)) == Spread(0.39, 4)
    assert larger(Spread(0.5, 1), Spread(0.39, 4)) == Spread(0.5, 4)
    assert larger(None, Spread(0.39, 4)) == Spread(0.39, 4)
    assert larger(Spread(0.2, 1), None) == Spread(0.2, 1)
    assert larger(None, None) is None


def test_one_value_has_no_spread() -> None:
    assert spread_of([1.0]) is None


@pytest.mark.parametrize(("n", "m"), [(1, 5), (2, 5), (3, 3), (5, 5)])
def test_intervals_cover_no_difference_in_95_of_100_experiments(n: int, m: int) -> None:
    # Source: the definition of a 95 % interval, with draws of equal spread on both sides.
    trials = 2000
    draws = normal(derive_key(0, "coverage", n, m), torch.arange(trials * (n + m)))
    covered = 0
    for sample in draws.view(trials, n + m).double().tolist():
        theirs = sample[n:]
        interval = difference_of_means(sample[:n], sum(theirs) / m, m, spread_of(theirs))
        assert interval is not None
        covered += interval.low <= 0.0 <= interval.high
    # Four binomial standard errors, and what the F test's 1 % may take or give.
    assert covered / trials == pytest.approx(0.95, abs=4 * math.sqrt(0.05 * 0.95 / trials) + 0.005)


def test_welchs_degrees_of_freedom_rest_on_those_of_both_sides() -> None:
    # By hand: the means' variances are 9 / 3 = 3 with 2 degrees and 1 / 1 with 20, so that
    # 16 / (9 / 2 + 1 / 20) degrees belong to an error of 2.
    interval = difference_of_means([-3.0, 0.0, 3.0], 0.0, 1, Spread(1.0, 20))
    assert interval is not None
    half = 2 * student_quantile(0.975, 16 / (9 / 2 + 1 / 20))
    assert half_width(interval) == pytest.approx(half, rel=1e-9)


@pytest.mark.parametrize(
    ("own", "column", "expected"),
    [
        (None, None, Spread(1.0, 16)),  # one pair
        # By hand: F(16, 4) has 1 % above 14.15, so that a std below 1 / 3.76 is less beyond chance.
        (0.27, 0.27, Spread(1.0, 16)),
        (0.26, 0.26, Spread(0.26, 16)),
        (0.26, 0.5, Spread(0.5, 16)),  # the larger of the cell's and the column's
        # F(16, 16) has 1 % above 3.37, so that a std above 1.84 is more beyond chance.
        (1.83, 1.83, Spread(math.sqrt((1.83**2 + 1) / 2), 32)),
        (1.85, 1.85, Spread(1.85, 16)),
    ],
)
def test_the_spread_of_pairs_is_that_of_unrelated_runs_unless_theirs_differs_beyond_chance(
    own: float | None, column: float | None, expected: Spread
) -> None:
    found = spread_of_pairs(
        None if own is None else Spread(own, 4),
        None if column is None else Spread(column, 16),
        Spread(1.0, 16),
    )
    assert found.std == pytest.approx(expected.std)
    assert found.degrees == expected.degrees


def test_spreads_that_differ_by_chance_alone_are_pooled() -> None:
    spreads = [Spread(std, 4) for std in (0.8, 1.0, 1.2, 1.1)]
    assert moderated(spreads) == [pooled(spreads)] * 4


def test_a_lone_spread_and_a_value_fixed_by_definition_take_the_pooled_one() -> None:
    assert moderated([Spread(2.0, 4)]) == [Spread(2.0, 4)]
    found = moderated([Spread(0.0, 4), Spread(0.01, 4), Spread(1.0, 4), Spread(9.0, 4)])
    assert found[0] == pooled([Spread(0.01, 4), Spread(1.0, 4), Spread(9.0, 4)])


@given(st.lists(st.floats(0.01, 100.0), min_size=2, max_size=12), st.floats(0.1, 10.0))
def test_a_moderated_spread_keeps_the_order_and_the_unit(stds: list[float], unit: float) -> None:
    spreads = [Spread(std, 4) for std in stds]
    found = moderated(spreads)
    by_size = sorted(zip(stds, (spread.std for spread in found), strict=True))
    assert [std for _, std in by_size] == pytest.approx(sorted(std for _, std in by_size))
    assert all(4 <= spread.degrees <= 4 * len(stds) for spread in found)
    scaled = moderated([Spread(unit * std, 4) for std in stds])
    assert [spread.std for spread in scaled] == pytest.approx(
        [unit * spread.std for spread in found], rel=1e-6
    )


def test_moderation_finds_the_distribution_that_variances_are_drawn_from() -> None:
    # Variances around true ones with s_0^2 = 2.5 and f_0 = 6: chi-squared draws as sums of squares.
    count, prior, degrees, scale = 20_000, 6, 4, 2.5
    draws = normal(derive_key(0, "moderated"), torch.arange(count * (prior + degrees)))
    squares = draws.view(count, prior + degrees).double().square()
    true = prior * scale / squares[:, :prior].sum(1)
    found = true * squares[:, prior:].sum(1) / degrees
    spreads = [Spread(math.sqrt(float(variance)), degrees) for variance in found]
    for own, spread in zip(spreads[:50], moderated(spreads), strict=False):
        expected = (prior * scale + degrees * own.std**2) / (prior + degrees)
        assert spread.std**2 == pytest.approx(expected, rel=0.05)
        assert spread.degrees == pytest.approx(prior + degrees, rel=0.05)
