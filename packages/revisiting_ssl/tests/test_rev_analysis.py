"""Statistics of grids against SciPy, plain loops and small grids that are solved by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revisiting_ssl.analysis.agreement import (
    cell_agreement,
    grid_statistics,
    mean_agreement,
    seed_agreement,
    task_agreement,
)
from revisiting_ssl.analysis.correlations import (
    Correlation,
    chance_spread,
    kendall_tau,
    mean_correlation,
    ranks,
    spearman,
)
from revisiting_ssl.analysis.depth import skip_gains
from revisiting_ssl.analysis.grids import (
    Cell,
    best_of,
    cell_of,
    count_improving,
    mean_leads,
    restricted,
    reversals,
    width_steps,
)
from revisiting_ssl.analysis.pretext import predictions

Correlate = Callable[[dict[str, float], dict[str, float]], Correlation]


def grid(**columns: dict[str, float]) -> dict[Cell, dict[str, float]]:
    """Make a grid of columns such as ``rotation_4x``."""
    return {cell_of(name): values for name, values in columns.items()}


UP, DOWN = {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 3.0, "b": 2.0, "c": 1.0}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
@settings(deadline=None)
def test_equal_values_share_the_mean_of_their_ranks(values: list[int]) -> None:
    # Reference: scipy's rankdata, ascending.
    stats = pytest.importorskip("scipy.stats")
    found = ranks({str(place): value for place, value in enumerate(values)})
    assert list(found.values()) == stats.rankdata([-value for value in values]).tolist()


@pytest.mark.parametrize(
    ("correlate", "reference"), [(kendall_tau, "kendalltau"), (spearman, "spearmanr")]
)
@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=8))
@settings(deadline=None)
def test_correlations_equal_those_of_scipy(
    correlate: Correlate, reference: str, pairs: list[tuple[int, int]]
) -> None:
    stats = pytest.importorskip("scipy.stats")
    columns = [list(map(float, side)) for side in zip(*pairs, strict=True)]
    first, second = ({str(i): value for i, value in enumerate(side)} for side in columns)
    found = correlate(first, second)
    if any(len(set(side)) == 1 for side in columns):
        assert found.value is None
        assert "equal" in found.reason
        return
    assert found.value == pytest.approx(getattr(stats, reference)(*columns).statistic)
    assert (found.points, found.reason) == (len(pairs), "")


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=8))
@settings(deadline=None)
def test_kendall_tau_counts_pairs(pairs: list[tuple[int, int]]) -> None:
    # Reference: Kendall 1945, pairs in plain loops: (P - Q) / sqrt((n - ties) (n - ties)).
    first, second = ({str(i): float(p[side]) for i, p in enumerate(pairs)} for side in (0, 1))
    if len(set(first.values())) == 1 or len(set(second.values())) == 1:
        return
    score = left = right = 0
    for (a, b), (c, d) in combinations(pairs, 2):
        score += ((a > c) - (a < c)) * ((b > d) - (b < d))
        left += a != c
        right += b != d
    found = kendall_tau(first, second).value
    assert found == pytest.approx(score / math.sqrt(left * right))


@pytest.mark.parametrize("correlate", [kendall_tau, spearman])
def test_a_correlation_ignores_points_that_only_one_side_has(correlate: Correlate) -> None:
    found = correlate({**UP, "d": 0.0}, {"e": 9.0, **UP})
    assert (found.value, found.points) == (1.0, 3)


@pytest.mark.parametrize("correlate", [kendall_tau, spearman])
def test_two_points_have_no_correlation(correlate: Correlate) -> None:
    found = correlate(UP, {"a": 1.0, "b": 2.0})
    assert (found.value, found.points) == (None, 2)
    assert "2" in found.reason
    assert "expected 3 or more" in found.reason


@pytest.mark.parametrize("points", [3, 4])
def test_chance_spread_is_that_of_all_orders(points: int) -> None:
    # Reference: every order of the points against the first, in plain loops.
    names = "abcd"[:points]
    orders = [
        dict(zip(names, map(float, order), strict=True)) for order in permutations(range(points))
    ]
    taus = [kendall_tau(orders[0], order).value or 0.0 for order in orders]
    mean_square = math.fsum(tau * tau for tau in taus) / len(taus)
    assert chance_spread(points) == pytest.approx(math.sqrt(mean_square))


def test_mean_correlation_skips_undefined_ones_and_reports_the_fewest_points() -> None:
    undefined = Correlation(None, 2, reason="too few")
    found = mean_correlation([Correlation(1.0, 6), undefined, Correlation(0.5, 3)], "nothing")
    assert found == Correlation(0.75, 3, 2)
    assert mean_correlation([undefined], "nothing").reason == "too few"
    assert mean_correlation([], "nothing") == Correlation(None, 0, 0, "nothing")


def test_tasks_are_compared_at_equal_width_and_with_themselves_between_widths() -> None:
    found = task_agreement(
        grid(rotation_4x=UP, rotation_8x=DOWN, rotation_16x=DOWN, jigsaw_4x=UP, jigsaw_8x=UP)
    )
    assert found["rotation", "jigsaw"] == found["jigsaw", "rotation"]
    assert (found["rotation", "jigsaw"].value, found["rotation", "jigsaw"].rankings) == (0, 2)
    assert found["rotation", "rotation"].value == pytest.approx((-1 - 1 + 1) / 3)
    assert found["jigsaw", "jigsaw"].value == pytest.approx(1)
    assert mean_agreement(found, same=False)[:3] == (0, 3, 1)  # one pair of tasks
    assert mean_agreement(found, same=True).value == pytest.approx((1 - 1 / 3) / 2)


def test_task_agreement_is_undefined_without_a_common_or_a_second_width() -> None:
    found = task_agreement(grid(rotation_4x=UP, jigsaw_8x=UP, exemplar_4x={}))
    assert found["rotation", "jigsaw"].reason == "no width in common"
    assert found["rotation", "rotation"].reason == "one width"
    assert not any("exemplar" in pair for pair in found)


def test_seeds_are_compared_column_by_column() -> None:
    same, other = grid(rotation_4x=UP, jigsaw_4x=UP), grid(rotation_4x=UP, jigsaw_4x=DOWN)
    found = seed_agreement({0: same, 1: other})
    assert (found.value, found.rankings) == (0, 2)
    assert seed_agreement({0: same}).reason == "one seed"


def test_cell_agreement_has_the_columns_of_both_grids() -> None:
    found = cell_agreement(grid(rotation_4x=UP, jigsaw_4x=UP, jigsaw_8x={}), grid(jigsaw_4x=DOWN))
    assert {cell: one.value for cell, one in found.items()} == {Cell("jigsaw", 4): -1}


def test_grid_statistics_leave_out_empty_columns_and_shares() -> None:
    few, every = grid(rotation_4x=DOWN), grid(rotation_4x=UP)
    found = grid_statistics(
        grid(rotation_4x=UP, jigsaw_4x={}), {"10 %": (few, every), "5 %": (few, {})}
    )
    assert found.ranks == {Cell("rotation", 4): {"a": 3, "b": 2, "c": 1}}
    assert found.best == {"rotation": (["c"], 4, 3.0)}
    assert found.shares.keys() == {"10 %"}
    assert found.shares["10 %"][Cell("rotation", 4)].value == -1


def test_a_width_step_is_to_the_next_width_and_equal_is_no_improvement() -> None:
    widths = grid(
        rotation_4x={"a": 1.0, "b": 1.0},
        rotation_8x={"a": 1.0},
        rotation_16x={"a": 2.0, "b": 3.0},
    )
    steps = width_steps(widths)
    assert [step[:4] for step in steps] == [("a", "rotation", 4, 8), ("a", "rotation", 8, 16)]
    assert count_improving(steps) == 1


def test_best_of_equal_widths_is_the_narrowest() -> None:
    equal = grid(rotation_4x={"a": 1.0}, rotation_8x={"a": 2.0}, rotation_12x={"a": 2.0})
    assert best_of(equal, "rotation") == (["a"], 8, 2.0)


def test_restricted_keeps_what_the_other_grid_has() -> None:
    found = restricted(grid(rotation_4x=UP, jigsaw_4x=UP), grid(rotation_4x={"b": 0.0}))
    assert found == grid(rotation_4x={"b": 2.0}, jigsaw_4x={})


def test_only_encoders_whose_order_changes_are_reversals() -> None:
    columns = grid(
        rotation_4x={"a": 3.0, "b": 1.0, "c": 0.0},
        rotation_8x={"a": 5.0, "b": 1.0},
        jigsaw_4x={"a": 1.0, "b": 2.0, "c": 0.0},
    )
    assert reversals(columns) == {("a", "b"): {"rotation": 3.0, "jigsaw": -1.0}}
    assert mean_leads(columns, "c", "b") == {"rotation": -1.0, "jigsaw": -2.0}


def test_pretext_accuracy_is_correlated_over_encoders_over_widths_and_over_all() -> None:
    pretext = grid(
        rotation_4x={"a": 50.0, "b": 60.0, "c": 70.0},
        rotation_8x={"a": 51.0, "b": 61.0, "c": 71.0},
        rotation_12x={"a": 52.0, "b": 62.0, "c": 72.0},
    )
    accuracies = grid(
        rotation_4x={"a": 30.0, "b": 20.0, "c": 10.0},
        rotation_8x={"a": 31.0, "b": 21.0, "c": 11.0},
        rotation_12x={"a": 32.0, "b": 22.0, "c": 10.5},
        exemplar_4x={"a": 40.0},
    )
    found = predictions(pretext, accuracies)
    assert list(found) == ["rotation"]
    one = found["rotation"]
    assert (one.encoders.value, one.encoders.points, one.encoders.rankings) == (-1, 3, 3)
    assert one.widths.value == pytest.approx((1 + 1 + 0.5) / 3)
    assert one.widths.rankings == 3
    assert one.all.points == 9
    assert one.all.value is not None
    assert one.all.value < -0.7
    assert (one.agreeing, one.steps) == (5, 6)


def test_skip_gains_are_means_over_common_seeds() -> None:
    found = skip_gains(
        {"block1": {0: 30.0, 1: 34.0, 2: 90.0}, "block2": {0: math.nan}, "block3": {0: 1.0}},
        {"block1": {0: 29.0, 1: 31.0}, "block2": {0: 1.0}, "block3": {1: 1.0}},
    )
    assert found == {"block1": 2.0}


def test_widths_are_compared_in_their_order_and_not_in_that_of_the_columns() -> None:
    found = width_steps(grid(rotation_16x={"a": 3.0}, rotation_4x={"a": 1.0}, rotation_8x=UP))
    assert found == [("a", "rotation", 4, 8, 0.0), ("a", "rotation", 8, 16, 2.0)]


def test_a_width_step_that_leaves_an_accuracy_as_it_is_tells_nothing_of_a_task() -> None:
    pretext = grid(rotation_4x={"a": 50.0, "b": 50.0}, rotation_8x={"a": 50.0, "b": 51.0})
    accuracies = grid(rotation_4x={"a": 30.0, "b": 30.0}, rotation_8x={"a": 31.0, "b": 30.0})
    one = predictions(pretext, accuracies)["rotation"]
    assert (one.agreeing, one.steps) == (0, 0)
