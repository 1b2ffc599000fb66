"""Verdicts of a comparison, and the reasons of cells and claims without one."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from retable.errors import UserError
from retable.tables import Comparison, Provenance, Reference, compare, record_reference
from retable.tables.claims import Fact, recorded_facts
from retable.tables.comparison import ComparedCell, Scale
from retable.tables.reading import parse_reference
from retable.tables.reference import Value
from retable.tables.statistics import spread_of, student_quantile
from retable.tables.verdict import ClaimVerdict, Verdict

Printed = Callable[..., Reference]


def runs(centre: float, seeds: Iterable[int] = range(5), std: float = 0.4) -> dict[int, float]:
    # A fixed pattern of mean 0 and sample std 1.
    pattern = dict(zip(range(5), [-1.2649, 0.6325, 0.0, 1.2649, -0.6325], strict=True))
    return {seed: centre + std * pattern[seed % 5] for seed in seeds}


def cells(comparison: Comparison, column: str = "top1") -> dict[str, ComparedCell]:
    return {row.row.key: row.cells[column] for row in comparison.rows}


def test_paper_scale_compares_with_the_paper(paper: Reference) -> None:
    measured = {"base": {"top1": runs(78.1)}, "ours": {"top1": runs(85.0)}}
    comparison = compare(paper, measured, scale="paper")
    found = cells(comparison)
    assert found["base"].verdict is Verdict.MATCH
    assert found["ours"].verdict is Verdict.MISS
    assert found["base"].paper == found["base"].reference
    assert comparison.misses() == [("ours", "top1")]
    assert comparison.exit_status == 1


def test_a_cell_interval_rests_on_both_spreads_by_hand(paper: Reference) -> None:
    # By hand: reference std 0.4 with the 4 degrees of its column over two runs (the least that a
    # std can come from), ours 0.4 over five; pooled 0.4 with 8 degrees, t(0.975, 8) = 2.306004.
    comparison = compare(paper, {"ours": {"top1": runs(79.1)}}, scale="paper")
    half = 2.306004 * 0.4 * math.sqrt(1 / 5 + 1 / 2)
    interval = cells(comparison)["ours"].interval
    assert interval is not None
    assert interval.high - interval.low == pytest.approx(2 * half, rel=1e-4)


def test_a_cited_row_is_printed_without_verdict(paper: Reference) -> None:
    comparison = compare(paper, {"base": {"top1": runs(78.0)}}, scale="paper")
    cited = cells(comparison)["cited"]
    assert isinstance(cited.paper, Value)
    assert cited.paper.value == 73.0
    assert cited.verdict is None
    assert "not run" in cited.reason


def test_a_missing_run_is_never_a_match_and_says_why(paper: Reference) -> None:
    comparison = compare(paper, {}, scale="paper", not_run={"base": "left out by --rows"})
    found = cells(comparison)
    assert found["base"].verdict is Verdict.NOT_RUN
    assert found["base"].reason == "left out by --rows"
    assert found["ours"].verdict is Verdict.NOT_RUN
    assert comparison.exit_status == 0
    measured = {"base": {"top1": runs(78.0)}}
    detection = cells(compare(paper, measured, scale="paper"), "ap")["base"]
    assert detection.verdict is Verdict.NOT_RUN
    assert detection.reason == "needs detection fine-tuning"


def test_a_reason_of_a_column_holds_for_its_cells(paper: Reference) -> None:
    found = cells(compare(paper, {}, scale="paper", not_run={"ap": "no detector"}), "ap")
    assert found["base"].reason == "no detector"


def test_an_empty_cell_of_the_paper_is_not_missing(paper: Reference) -> None:
    measured = {"ours": {"top1": runs(79.0)}}
    assert cells(compare(paper, measured, scale="paper"), "error")["ours"].verdict is None


ONLY_ORDERS = """
[table]
id = "figure9"
title = "A title"
paper = "A paper"
source = "A source"
dataset = "A data set"

[[columns]]
key = "x"
label = "X"
unit = ""
higher_is_better = true

[[columns]]
key = "y"
label = "Y"
unit = ""
higher_is_better = true

[[rows]]
key = "a"
label = "A"
origin = "run"
values = {}
"""


def test_a_row_of_which_only_an_order_is_stated_was_to_be_run() -> None:
    comparison = compare(parse_reference(ONLY_ORDERS, Path("f.toml")), {}, scale="paper")
    assert comparison.counts()[Verdict.NOT_RUN] == 2


def test_a_row_without_values_is_reported_missing_once_in_a_table_with_values(
    printed: Printed,
) -> None:
    row = '[[rows]]\nkey = "oracle"\nlabel = "Oracle"\norigin = "extra"\nvalues = {}\n\n[[claims]]'
    stated = printed({"[[claims]]": row})
    comparison = compare(stated, {}, scale="paper")
    assert cells(comparison, "top1")["oracle"].verdict is Verdict.NOT_RUN
    assert cells(comparison, "error")["oracle"].verdict is None


def test_proxy_scale_compares_with_the_recording_and_shows_the_paper(
    paper: Reference, proxy: Reference, provenance: Provenance
) -> None:
    measured = {"base": {"top1": {9: 30.2}}, "ours": {"top1": {9: 31.9}}}
    comparison = compare(proxy, measured, paper, "proxy")
    base = cells(comparison)["base"]
    assert isinstance(base.paper, Value)
    assert base.paper.value == 78.0
    assert isinstance(base.reference, Value)
    assert base.reference.value == pytest.approx(30.0)
    assert base.verdict is Verdict.MATCH
    assert comparison.provenance == provenance


@pytest.mark.parametrize("scale", ["proxy", "smoke"])
def test_the_papers_values_give_no_verdict_at_another_scale(scale: Scale, paper: Reference) -> None:
    measured = {"base": {"top1": runs(78.0)}}
    comparison = compare(paper, measured, paper, scale)
    assert cells(comparison)["base"].verdict is None
    assert cells(comparison)["base"].interval is None
    assert not comparison.counts()[Verdict.MATCH]


def test_a_recording_gives_no_verdict_at_paper_scale(paper: Reference, proxy: Reference) -> None:
    measured = {"base": {"top1": runs(30.0)}}
    comparison = compare(proxy, measured, paper, "paper")
    assert cells(comparison)["base"].verdict is None


@pytest.mark.parametrize(
    ("scale", "unfinished"), [("smoke", ""), ("paper", "stopped by --max-steps")]
)
def test_unfinished_numbers_are_shown_and_claim_nothing(
    scale: Scale, unfinished: str, paper: Reference
) -> None:
    measured = {"base": {"top1": runs(10.0)}, "ours": {"top1": runs(90.0)}}
    comparison = compare(paper, measured, scale=scale, unfinished=unfinished)
    assert comparison.exit_status == 0
    assert cells(comparison)["base"].mean == pytest.approx(10.0, abs=1e-3)
    assert cells(comparison)["base"].verdict is None
    assert set(comparison.claim_counts()) == {ClaimVerdict.UNRESOLVED}


def test_a_reference_edited_by_more_than_its_tolerance_is_a_miss_that_names_the_cell(
    paper: Reference, proxy: Reference
) -> None:
    measured = {"base": {"top1": {9: 30.1}}, "ours": {"top1": {9: 31.9}}}
    assert compare(proxy, measured, paper, "proxy").exit_status == 0
    base, row = proxy.row("base"), proxy.row("ours")
    assert base is not None
    assert row is not None
    tolerance = proxy.tolerance_of("ours", "top1")
    assert tolerance is not None
    edit = 2.0 * tolerance
    recorded = proxy.value("ours", "top1")
    assert recorded is not None
    per_seed = tuple(number + edit for number in recorded.per_seed)
    value = dataclasses.replace(recorded, value=recorded.value + edit, per_seed=per_seed)
    rows = (base, dataclasses.replace(row, values={"top1": value}))
    edited = compare(dataclasses.replace(proxy, rows=rows), measured, paper, "proxy")
    assert edited.exit_status == 1
    assert edited.misses() == [("ours", "top1")]


def test_an_added_row_is_shown_at_the_end_without_verdict(paper: Reference) -> None:
    measured = {"mine": {"top1": {0: 50.0}}}
    comparison = compare(paper, measured, scale="paper")
    added = comparison.rows[-1]
    assert (added.row.key, added.row.label) == ("mine", "mine")
    assert added.cells["top1"].verdict is None
    assert "no number in the paper" in added.cells["top1"].reason


def test_an_unknown_column_is_refused_by_name(paper: Reference) -> None:
    with pytest.raises(
        UserError, match=r"Row 'base' of table9 measures the column 'knn'.*table9\.toml"
    ):
        compare(paper, {"base": {"knn": {0: 1.0}}}, scale="paper")


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_a_miss(broken: float, paper: Reference) -> None:
    measured = {"base": {"top1": {0: 78.0, 1: broken}}, "ours": {"top1": {0: 79.0, 1: 79.0}}}
    comparison = compare(paper, measured, scale="paper")
    assert cells(comparison)["base"].verdict is Verdict.MISS
    mean = cells(comparison)["base"].mean
    assert mean is not None
    assert math.isnan(mean)
    assert comparison.claims[0].verdict is ClaimVerdict.UNRESOLVED
    assert "not finite" in comparison.claims[0].reason


@pytest.mark.parametrize(("value", "verdict"), [(79.2, "match"), (79.3, "inconclusive")])
def test_single_runs_without_any_spread_match_within_the_tolerance_and_never_miss(
    value: float, verdict: str, printed: Printed
) -> None:
    spread = 'spread = { std = 0.4, degrees = 4, reason = "the stds of the table" }'
    single = printed({spread: "", "std = 0.2, runs = 3 }": "runs = 1 }"})
    comparison = compare(single, {"base": {"top1": {0: value}}}, scale="paper")
    found = cells(comparison)["base"]
    assert (found.verdict, found.firm, found.interval) == (verdict, False, None)
    assert ("run more seeds" in found.reason) is (verdict == "inconclusive")


def test_a_match_is_firm_where_the_seeds_leave_no_doubt(paper: Reference) -> None:
    # The tolerance is 1.25; an interval of one seed reaches further, that of five does not.
    for measured, firm in (({0: 78.1}, False), (runs(78.1), True)):
        comparison = compare(paper, {"base": {"top1": measured}}, scale="paper")
        found = cells(comparison)["base"]
        assert (found.verdict, found.firm) == (Verdict.MATCH, firm)
        assert comparison.firm_matches() == int(firm)
        assert found.interval is not None
        half = (found.interval.high - found.interval.low) / 2
        assert found.smallest_miss == pytest.approx(1.25 + half)


def test_claims_are_tested_on_pairs_of_equal_seed(paper: Reference) -> None:
    # The two rows vary by 0.4 from seed to seed, their difference does not.
    measured = {"base": {"top1": runs(78.0, range(4))}, "ours": {"top1": runs(79.0, range(1, 5))}}
    claim = compare(paper, measured, scale="paper").claims[0]
    assert list(claim.differences) == [1, 2, 3]
    assert all(v == pytest.approx(1.0) for v in claim.differences.values())
    assert claim.verdict is ClaimVerdict.SUPPORTED


def test_rows_without_a_common_seed_resolve_nothing(paper: Reference) -> None:
    measured = {"base": {"top1": {0: 78.0}}, "ours": {"top1": {1: 79.0}}}
    claim = compare(paper, measured, scale="paper").claims[0]
    assert claim.verdict is ClaimVerdict.UNRESOLVED
    assert claim.reason == "the two rows have no seed in common"


def test_a_claim_of_rows_that_did_not_run_names_them(paper: Reference) -> None:
    claim = compare(paper, {"base": {"top1": {0: 78.0}}}, scale="paper").claims[0]
    assert claim.reason == "'ours' not run"


def test_a_claim_against_a_cited_row_uses_the_printed_value_at_paper_scale(
    paper: Reference, proxy: Reference
) -> None:
    measured = {"ours": {"top1": runs(79.0)}}
    claim = compare(paper, measured, scale="paper").claims[1]
    assert claim.interval is not None
    assert claim.interval.centre == pytest.approx(6.0, abs=1e-3)
    assert claim.verdict is ClaimVerdict.SUPPORTED
    assert "printed value of 'cited'" in claim.reason
    claim = compare(proxy, {"ours": {"top1": runs(32.0)}}, paper, "proxy").claims[1]
    assert claim.verdict is ClaimVerdict.UNRESOLVED  # the paper's number means nothing there


def test_fewer_errors_count_in_favour_where_lower_is_better(paper: Reference) -> None:
    measured = {"base": {"error": runs(20.0)}, "ours": {"error": runs(15.0)}}
    claim = compare(paper, measured, scale="paper").claims[2]
    assert claim.interval is not None
    assert claim.interval.centre == pytest.approx(5.0)
    assert claim.verdict is ClaimVerdict.SUPPORTED


def test_a_margin_is_tested_at_paper_scale_only(proxy: Reference, printed: Printed) -> None:
    stated = printed({"margin = 1.0": "margin = 5.0"})
    measured = {"base": {"top1": runs(78.0)}, "ours": {"top1": runs(79.0)}}
    claim = compare(stated, measured, scale="paper").claims[0]
    assert claim.smallest == pytest.approx(5.0 - 1.25)
    assert claim.verdict is ClaimVerdict.CONTRADICTED
    measured = {"base": {"top1": runs(30.0)}, "ours": {"top1": runs(31.5)}}
    assert compare(proxy, measured, stated, "proxy").claims[0].verdict is ClaimVerdict.SUPPORTED


def test_one_seed_is_tested_with_the_recorded_spread_of_paired_differences(
    paper: Reference, provenance: Provenance
) -> None:
    # By hand: recorded differences of std 0.2 (4 degrees), t(0.975, 4) = 2.776445.
    rows = {
        "base": {"top1": runs(30.0)},
        "ours": {"top1": {k: v + 2 for k, v in runs(0.0, std=0.6).items()}},
    }
    rows["ours"]["top1"] = {k: v + 30.0 for k, v in rows["ours"]["top1"].items()}
    reference = record_reference(paper, rows, provenance)
    measured = {"base": {"top1": {7: 30.0}}, "ours": {"top1": {7: 31.0}}}
    claim = compare(reference, measured, paper, "proxy").claims[0]
    assert claim.interval is not None
    half = (claim.interval.high - claim.interval.low) / 2
    assert half == pytest.approx(2.776445 * 0.2, rel=1e-3)
    assert claim.verdict is ClaimVerdict.SUPPORTED


def test_a_recorded_seed_that_is_run_again_is_no_further_evidence(
    paper: Reference, provenance: Provenance
) -> None:
    # By hand: seeds 0 to 4 with differences of std 0.2, t(0.975, 4) = 2.776445. Counted twice, they
    # would have 8 degrees of freedom; of one seed the four others tell the spread.
    base, gains = runs(30.0), runs(1.0, std=0.2)
    rows = {"base": {"top1": base}, "ours": {"top1": {k: base[k] + gains[k] for k in base}}}
    reference = record_reference(paper, rows, provenance)
    again = compare(reference, rows, paper, "proxy").claims[0]
    assert again.interval is not None
    half = (again.interval.high - again.interval.low) / 2
    assert half == pytest.approx(2.776445 * 0.2 / math.sqrt(5), rel=1e-3)
    assert again.recorded is again.verdict
    first = {row: {"top1": {0: found["top1"][0]}} for row, found in rows.items()}
    alone = compare(reference, first, paper, "proxy").claims[0]
    assert alone.interval is not None
    spread = spread_of([gains[seed] for seed in range(1, 5)])
    assert spread is not None
    half = (alone.interval.high - alone.interval.low) / 2
    assert half == pytest.approx(student_quantile(0.975, 3) * spread.std, rel=1e-3)


def test_a_cell_knows_its_mean_and_std() -> None:
    assert ComparedCell(ours={0: 1.0, 1: 3.0}).mean == 2.0
    assert ComparedCell(ours={0: 1.0, 1: 3.0}).std == pytest.approx(math.sqrt(2))
    assert ComparedCell(ours={0: 1.0}).std is None
    assert ComparedCell().mean is None


def test_one_seed_without_recorded_pairs_is_tested_as_two_independent_runs(
    paper: Reference,
) -> None:
    # By hand: the column's std of 0.4 (4 degrees) on both sides, t(0.975, 4) = 2.776445.
    measured = {"base": {"top1": {7: 78.0}}, "ours": {"top1": {7: 79.0}}}
    claim = compare(paper, measured, scale="paper").claims[0]
    assert claim.interval is not None
    half = (claim.interval.high - claim.interval.low) / 2
    assert half == pytest.approx(2.776445 * 0.4 * math.sqrt(2), rel=1e-6)


def test_fewer_errors_than_a_printed_value_count_in_favour(printed: Printed) -> None:
    base = 'fewer errors."\nbetter = "ours"\nthan = "base"'
    stated = printed(
        {"top1 = { value = 73.0 }": "error = { value = 27.0 }", base: base.replace("base", "cited")}
    )
    claim = compare(stated, {"ours": {"error": runs(15.0)}}, scale="paper").claims[2]
    assert claim.interval is not None
    assert claim.interval.centre == pytest.approx(12.0, abs=1e-3)
    assert claim.verdict is ClaimVerdict.SUPPORTED


@pytest.mark.parametrize("centre", [79.8, 80.0])
def test_the_seeds_that_are_needed_are_enough_and_one_fewer_is_not(
    centre: float, paper: Reference
) -> None:
    def found(seeds: int) -> ComparedCell:
        """Compare evenly spaced runs with a sample std of 0.4, that of the column."""
        step = 0.4 / math.sqrt(seeds * (seeds + 1) / 12)
        values = {seed: centre + step * (seed - (seeds - 1) / 2) for seed in range(seeds)}
        return cells(compare(paper, {"base": {"top1": values}}, scale="paper"))["base"]

    assert found(2).verdict is Verdict.INCONCLUSIVE
    needed = found(2).seeds_needed
    assert needed is not None
    assert found(needed).verdict is Verdict.MISS
    assert needed == 3 or found(needed - 1).verdict is Verdict.INCONCLUSIVE


def test_a_claim_on_a_column_without_a_better_says_which_row_is_higher(printed: Printed) -> None:
    stated = printed({"higher_is_better = false\n": ""})
    measured = {"base": {"error": runs(20.0)}, "ours": {"error": runs(25.0)}}
    claim = compare(stated, measured, scale="paper").claims[2]
    assert claim.verdict is ClaimVerdict.SUPPORTED


def stating(printed: Printed, **fields: str) -> Reference:
    """Return the table whose first claim has further fields."""
    lines = "".join(f"\n{name} = {value}" for name, value in fields.items())
    return printed({"margin = 1.0": f"margin = 0.0{lines}"})


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ({"at_least": "0.5"}, ClaimVerdict.SUPPORTED),
        ({"at_least": "0.5", "at_most": "1.5"}, ClaimVerdict.SUPPORTED),
        ({"at_most": "0.5"}, ClaimVerdict.CONTRADICTED),
        ({"at_least": "1.0"}, ClaimVerdict.UNRESOLVED),
    ],
)
def test_a_bound_is_about_the_difference_itself(
    bounds: dict[str, str], verdict: ClaimVerdict, printed: Printed
) -> None:
    measured = {"base": {"top1": runs(78.0)}, "ours": {"top1": runs(79.0, std=0.5)}}
    claim = compare(stating(printed, **bounds), measured, scale="paper").claims[0]
    assert claim.interval is not None
    assert claim.interval.centre == pytest.approx(1.0, abs=1e-3)
    assert claim.verdict is verdict


def test_a_bound_without_a_second_row_is_about_the_value(printed: Printed) -> None:
    old = 'than = "base"\ncolumn = "top1"\nmargin = 1.0'
    stated = printed({old: 'at_most = 80.0\ncolumn = "top1"\nmargin = 0.0'})
    claim = compare(stated, {"ours": {"top1": runs(79.0)}}, scale="paper").claims[0]
    assert claim.interval is not None
    assert claim.interval.centre == pytest.approx(79.0, abs=1e-3)
    assert claim.verdict is ClaimVerdict.SUPPORTED


def test_a_bound_on_a_column_where_lower_is_better_keeps_its_sign(printed: Printed) -> None:
    stated = printed(
        {'column = "top1"\nmargin = 1.0': 'column = "error"\nat_least = 0.5\nmargin = 0.0'}
    )
    measured = {"base": {"error": runs(20.0)}, "ours": {"error": runs(21.0)}}
    claim = compare(stated, measured, scale="paper").claims[0]
    assert claim.interval is not None
    assert claim.interval.centre == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"at_least": "2.0", "at_most": "1.0"},
            "`at_least` must be at most at_most = 1.0, got 2.0",
        ),
        ({"depends_on": '["a", 3]'}, "depends_on"),
    ],
)
def test_a_claim_that_cannot_be_is_refused(
    fields: dict[str, str], sentence: str, printed: Printed
) -> None:
    with pytest.raises(UserError, match=sentence):
        stating(printed, **fields)


def test_a_claim_needs_a_second_row_or_a_bound(printed: Printed) -> None:
    with pytest.raises(UserError, match="`than` must be a row where there is no bound"):
        printed({'than = "base"\ncolumn = "top1"': 'column = "top1"'})


SHOWN = {"a": Fact("A holds.", shows=True)}


@pytest.mark.parametrize(
    ("facts", "verdict", "reason"),
    [
        (None, ClaimVerdict.SUPPORTED, ""),
        (SHOWN, ClaimVerdict.SUPPORTED, ""),
        (
            {"a": Fact("A holds.", shows=False, reason="contradicted")},
            ClaimVerdict.NOT_TESTED,
            "'A holds' does not show here (contradicted)",
        ),
        ({}, ClaimVerdict.NOT_TESTED, "'a' does not show here (not among the facts)"),
    ],
)
def test_a_claim_is_tested_only_where_its_facts_show(
    facts: dict[str, Fact] | None, verdict: ClaimVerdict, reason: str, printed: Printed
) -> None:
    stated = printed({"margin = 1.0": 'margin = 1.0\ndepends_on = ["a"]'})
    measured = {"base": {"top1": runs(78.0)}, "ours": {"top1": runs(84.0)}}
    claim = compare(stated, measured, scale="paper", facts=facts).claims[0]
    assert (claim.verdict, claim.reason) == (verdict, reason)


def test_facts_show_where_the_recorded_numbers_support_all_their_claims(
    printed: Printed, provenance: Provenance
) -> None:
    stated = printed(
        {"margin = 1.0": 'margin = 1.0\nkey = "a"', "margin = 6.0": 'margin = 6.0\nkey = "b"'}
    )
    assert recorded_facts(stated, None)["a"] == Fact(stated.claims[0].text, False, "not recorded")
    measured = {"base": {"top1": runs(78.0)}, "ours": {"top1": runs(84.0)}}
    facts = recorded_facts(stated, record_reference(stated, measured, provenance))
    assert facts["a"] == Fact(stated.claims[0].text, True)
    assert (facts["b"].shows, facts["b"].reason) == (False, "no numbers")
    measured = {"base": {"top1": runs(84.0)}, "ours": {"top1": runs(78.0)}}
    facts = recorded_facts(stated, record_reference(stated, measured, provenance))
    assert (facts["a"].shows, facts["a"].reason) == (False, "contradicted")
