"""Verdicts follow from the interval; recorded tolerances have the stated rate of false alarms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retable.random import derive_key, normal
from retable.tables.statistics import (
    Interval,
    Spread,
    difference_of_means,
    larger,
    spread_of,
    student_quantile,
)
from retable.tables.verdict import (
    ClaimVerdict,
    Verdict,
    cell_verdict,
    claim_verdict,
    is_firm,
    recorded_tolerances,
    seeds_to_decide,
    smallest_miss,
    tolerance_of_mean,
    tolerance_of_pairs,
)


@pytest.mark.parametrize(
    ("difference", "half", "verdict", "firm"),
    [
        (0.0, 0.5, Verdict.MATCH, True),
        (0.0, 1.0, Verdict.MATCH, True),  # the ends count as inside
        (-1.0, 0.0, Verdict.MATCH, True),
        (0.9, 0.5, Verdict.MATCH, False),  # the interval reaches out
        (-1.0, 5.0, Verdict.MATCH, False),
        (1.1, 0.2, Verdict.INCONCLUSIVE, False),  # the interval reaches in
        (-1.1, 0.2, Verdict.INCONCLUSIVE, False),
        (3.0, 9.0, Verdict.INCONCLUSIVE, False),  # wider than the tolerance on both sides
        (1.2, 0.1, Verdict.MISS, False),
        (-1.2, 0.1, Verdict.MISS, False),
    ],
)
def test_a_verdict_follows_from_the_difference_and_the_ends_of_its_interval(
    difference: float, half: float, verdict: Verdict, firm: bool
) -> None:
    interval = Interval(difference, difference - half, difference + half)
    assert cell_verdict(difference, interval, tolerance=1.0) is verdict
    assert is_firm(interval, tolerance=1.0) is firm


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [(0.0, Verdict.MATCH), (-1.0, Verdict.MATCH), (1.1, Verdict.INCONCLUSIVE)],
)
def test_without_an_interval_only_the_difference_decides_and_nothing_misses(
    difference: float, verdict: Verdict
) -> None:
    assert cell_verdict(difference, None, tolerance=1.0) is verdict
    assert not is_firm(None, tolerance=1.0)
    assert smallest_miss(None, tolerance=1.0) is None


def test_binary_rounding_does_not_decide_a_verdict() -> None:
    off = 0.1 + 0.2
    assert cell_verdict(off, None, tolerance=0.3) is Verdict.MATCH
    assert cell_verdict(off, Interval(off, off, off), tolerance=0.3) is Verdict.MATCH
    assert is_firm(Interval(0.0, -off, off), tolerance=0.3)


@given(st.floats(-10, 10), st.floats(0, 5), st.floats(0, 5), st.floats(0, 5))
def test_a_larger_tolerance_never_turns_a_match_into_less(
    centre: float, half: float, tolerance: float, more: float
) -> None:
    interval = Interval(centre, centre - half, centre + half)
    if cell_verdict(centre, interval, tolerance) is Verdict.MATCH:
        assert cell_verdict(centre, interval, tolerance + more) is Verdict.MATCH
    if cell_verdict(centre, interval, tolerance + more) is Verdict.MISS:
        assert cell_verdict(centre, interval, tolerance) is Verdict.MISS


@given(st.floats(0, 5), st.floats(0.1, 5), st.sampled_from([-1, 1]))
def test_a_miss_begins_at_the_smallest_change_that_is_stated(
    half: float, tolerance: float, sign: int
) -> None:
    smallest = smallest_miss(Interval(0.0, -half, half), tolerance)
    assert smallest is not None
    for share, misses in ((0.999, False), (1.001, True)):
        difference = sign * share * smallest
        interval = Interval(difference, difference - half, difference + half)
        assert (cell_verdict(difference, interval, tolerance) is Verdict.MISS) is misses


@pytest.mark.parametrize(
    ("low", "high", "smallest", "verdict"),
    [
        (0.1, 0.3, None, ClaimVerdict.SUPPORTED),
        (-0.1, 0.3, None, ClaimVerdict.UNRESOLVED),
        (-0.3, -0.1, None, ClaimVerdict.CONTRADICTED),
        (0.1, 0.3, 0.9, ClaimVerdict.CONTRADICTED),  # the order holds, the size does not
        (0.1, 1.0, 0.9, ClaimVerdict.SUPPORTED),
        (2.0, 3.0, 0.9, ClaimVerdict.SUPPORTED),  # more than claimed is no contradiction
        (-0.1, 1.0, 0.9, ClaimVerdict.UNRESOLVED),
    ],
)
def test_a_claim_is_tested_by_order_and_if_stated_by_size(
    low: float, high: float, smallest: float | None, verdict: ClaimVerdict
) -> None:
    assert claim_verdict(Interval((low + high) / 2, low, high), smallest) is verdict


def test_a_claim_without_interval_is_unresolved() -> None:
    assert claim_verdict(None) is ClaimVerdict.UNRESOLVED


def test_recorded_tolerance_by_hand() -> None:
    # By hand: two cells with std 1 (4 degrees each, pooled 8), five runs: Student's t at
    # 1 - 0.01 / 4 with 8 degrees (3.8325) times sqrt(1.2).
    runs = [-1.264911064, -0.632455532, 0.0, 0.632455532, 1.264911064]  # std 1
    table = {"a": {"x": runs}, "b": {"x": [10.0 + v for v in runs]}}
    spreads, tolerances = recorded_tolerances(table)
    assert spreads["x"].std == pytest.approx(1.0)
    assert spreads["x"].degrees == 8
    assert student_quantile(0.9975, 8) == pytest.approx(3.8325, abs=1e-4)
    assert tolerances["a"]["x"] == pytest.approx(3.8325 * math.sqrt(1.2), abs=1e-3)
    assert tolerances["b"]["x"] == pytest.approx(tolerances["a"]["x"])


def test_a_row_that_spreads_more_has_a_larger_tolerance() -> None:
    table = {"calm": {"x": [0.0, 0.1, 0.2]}, "wild": {"x": [0.0, 5.0, -5.0]}}
    _, tolerances = recorded_tolerances(table)
    assert tolerances["wild"]["x"] > tolerances["calm"]["x"]


def test_a_difference_below_the_shown_decimals_is_not_a_miss() -> None:
    _, tolerances = recorded_tolerances({"a": {"x": [7.0] * 5}}, decimals={"x": 2})
    assert tolerances["a"]["x"] == pytest.approx(0.005)


def test_a_cell_that_never_varies_does_not_narrow_the_others() -> None:
    alone, _ = recorded_tolerances({"a": {"x": [0.0, 1.0, 2.0]}})
    with_constant, _ = recorded_tolerances({"a": {"x": [0.0, 1.0, 2.0]}, "b": {"x": [5.0] * 3}})
    assert with_constant == alone


def test_one_recorded_run_is_refused() -> None:
    with pytest.raises(ValueError, match="no spread"):
        recorded_tolerances({"a": {"x": [1.0]}})


def _simulate(
    stds: list[float], shared: float, tables: int = 1000, seeds: int = 5
) -> tuple[float, float]:
    """Return the share of tables with a miss, and of matching cells, when nothing changes.

    Each seed shifts all rows alike with std ``shared``: rows share data order and initial weights.
    """
    count = len(stds)
    rng_key = derive_key(0, "tables", count, str(stds), str(shared))
    draws = normal(rng_key, torch.arange(tables * (seeds + 1) * (count + 1)))
    draws = draws.view(tables, seeds + 1, count + 1).double()
    values = draws[..., :count] * torch.tensor(stds, dtype=torch.float64)
    values = values + shared * draws[..., count:]
    missed = matched = 0
    for table in values:
        recorded = {f"row{i}": {"x": table[:seeds, i].tolist()} for i in range(count)}
        spreads, tolerances = recorded_tolerances(recorded, decimals={"x": 6})
        verdicts = []
        for i, (row, cells) in enumerate(recorded.items()):
            spread = larger(spread_of(cells["x"]), spreads["x"])
            fresh = [float(table[seeds, i])]
            interval = difference_of_means(fresh, sum(cells["x"]) / seeds, seeds, spread)
            assert interval is not None
            verdicts.append(cell_verdict(interval.centre, interval, tolerances[row]["x"]))
        missed += Verdict.MISS in verdicts
        matched += verdicts.count(Verdict.MATCH)
    return missed / tables, matched / (tables * count)


@pytest.mark.parametrize(
    ("stds", "shared"),
    [
        ([1.0] * 6, 0.0),
        ([1.0] * 6, 1.0),  # each seed shifts all rows alike
        ([0.1] * 6, 3.0),  # almost only
        ([1.0, 1.0, 1.0, 1.0, 1.0, 3.0], 0.0),  # one unstable row
        ([0.3, 0.3, 1.0, 1.0, 1.0, 2.0, 2.0, 4.0], 0.0),  # rows of many spreads
        ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], 0.0),  # rows where the column is fixed by definition
        ([1.0], 0.0),
    ],
)
def test_an_unchanged_method_raises_no_miss_in_99_of_100_tables(
    stds: list[float], shared: float
) -> None:
    missed, _ = _simulate(stds, shared)
    assert missed <= 0.01


def test_an_unchanged_method_with_one_seed_mostly_reads_match() -> None:
    _, matched = _simulate([1.0] * 6, 0.5)
    assert matched > 0.8


def test_a_change_of_eight_stds_is_a_miss_with_one_seed() -> None:
    runs = normal(derive_key(0, "power"), torch.arange(30)).view(6, 5).tolist()
    spreads, tolerances = recorded_tolerances({str(i): {"x": r} for i, r in enumerate(runs)})
    spread = larger(spread_of(runs[0]), spreads["x"])
    interval = difference_of_means([sum(runs[0]) / 5 - 8.0], sum(runs[0]) / 5, 5, spread)
    assert cell_verdict(-8.0, interval, tolerances["0"]["x"]) is Verdict.MISS


def test_seeds_to_decide_are_the_fewest_that_end_it() -> None:
    # By hand: half widths of 2 / n leave a difference of 1.5 beyond 1 undecided up to four.
    def expected(count: int) -> tuple[Interval, float]:
        return Interval(1.5, 1.5 - 2 / count, 1.5 + 2 / count), 1.0

    assert seeds_to_decide(expected, 1) == 5
    assert seeds_to_decide(expected, 7) == 8  # more than there are


def test_no_number_of_seeds_decides_where_the_interval_stays() -> None:
    assert seeds_to_decide(lambda count: (Interval(1.5, 0.0, 3.0), 1.0), 1) is None


def test_the_tolerance_of_a_mean_narrows_as_its_difference_does() -> None:
    # By hand: of five fresh runs against five, sqrt((1/5 + 1/5) / (1 + 1/5)) = sqrt(1/3).
    assert tolerance_of_mean(6.0, 1, 5) == 6.0
    assert tolerance_of_mean(6.0, 5, 5) == pytest.approx(6.0 / math.sqrt(3.0))


def test_the_tolerance_of_pairs_follows_from_their_spread_where_that_is_smaller() -> None:
    # By hand: t(1 - 0.01 / 4, 8) = 3.8325 for two cells, see above.
    wide, narrow = Spread(100.0, 8), Spread(0.5, 8)
    assert tolerance_of_pairs(6.0, 1, 5, wide, 2) == 6.0
    assert tolerance_of_pairs(6.0, 5, 5, wide, 2) == pytest.approx(6.0 / math.sqrt(3.0))
    found = tolerance_of_pairs(6.0, 4, 5, narrow, 2)
    assert found == pytest.approx(3.8325 * 0.5 / 2.0, abs=1e-4)
    assert tolerance_of_pairs(6.0, 4, 5, Spread(0.0, 8), 2) == pytest.approx(0.6)
