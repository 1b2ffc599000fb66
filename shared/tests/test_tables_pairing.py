"""Recorded seeds: repeated where they must be, compared by seed elsewhere, else with the mean."""

import math
from collections.abc import Iterable

import pytest

from retable.tables import Comparison, Provenance, Reference, compare, record_reference
from retable.tables.comparison import ComparedCell
from retable.tables.statistics import student_quantile
from retable.tables.verdict import ClaimVerdict, Verdict


def runs(centre: float, seeds: Iterable[int] = range(5), std: float = 0.4) -> dict[int, float]:
    # A fixed pattern of mean 0 and sample std 1.
    pattern = dict(zip(range(5), [-1.2649, 0.6325, 0.0, 1.2649, -0.6325], strict=True))
    return {seed: centre + std * pattern[seed % 5] for seed in seeds}


def cells(comparison: Comparison) -> dict[str, ComparedCell]:
    return {row.row.key: row.cells["top1"] for row in comparison.rows}


def test_a_run_that_repeats_a_recorded_one_is_compared_with_its_seed(
    paper: Reference, proxy: Reference
) -> None:
    # Recorded: 29.5, 29.75, 30.0, 30.25, 30.5 for the seeds 0 to 4.
    tolerance = proxy.tolerance_of("base", "top1")
    assert tolerance is not None
    assert tolerance > 1.0

    def compared(seed: int, value: float, repeats: bool = True) -> ComparedCell:
        measured = {"base": {"top1": {seed: value}}}
        return cells(compare(proxy, measured, paper, repeats=repeats))["base"]

    assert compared(1, 29.75).verdict is Verdict.MATCH
    assert compared(1, 29.75 + 0.09 * tolerance).verdict is Verdict.MATCH
    other = compared(1, 29.75 + 0.11 * tolerance)
    assert other.verdict is Verdict.MISS
    assert other.reason == "seed 1 repeats a recorded run, which gave 29.75"
    assert compared(1, 29.75 + 0.11 * tolerance, repeats=False).verdict is not Verdict.MISS
    assert compared(7, 29.75 + 0.11 * tolerance).verdict is not Verdict.MISS


def test_of_several_repeated_runs_the_one_that_is_furthest_off_decides(
    paper: Reference, proxy: Reference
) -> None:
    # Recorded: 29.75 and 30.0 for the seeds 1 and 2.
    tolerance = proxy.tolerance_of("base", "top1")
    assert tolerance is not None
    for off in (-0.11 * tolerance, 0.11 * tolerance):
        measured = {"base": {"top1": {1: 29.75 + off, 2: 30.0}}}
        found = cells(compare(proxy, measured, paper, repeats=True))["base"]
        assert found.verdict is Verdict.MISS
        assert found.reason.startswith("seed 1 ")


def at_proxy_scale(
    proxy: Reference, paper: Reference, base: dict[int, float], repeats: bool = False
) -> ComparedCell:
    """Compare seeds of the row whose seeds 0 to 4 were recorded as 29.5, 29.75, ... 30.5."""
    measured = {"base": {"top1": base}}
    return cells(compare(proxy, measured, paper, repeats=repeats))["base"]


def test_recorded_seeds_are_compared_with_their_own_numbers_elsewhere(
    paper: Reference, proxy: Reference
) -> None:
    # Seed 0 was recorded 0.5 below the mean.
    found = at_proxy_scale(proxy, paper, {0: 29.6})
    assert found.interval is not None
    assert found.interval.centre == pytest.approx(0.1)
    # By hand: one pair varies as two independent runs; the pooled std has 8 degrees.
    spec = proxy.column("top1")
    assert spec is not None
    assert spec.spread is not None
    half = student_quantile(0.975, spec.spread.degrees) * spec.spread.std * math.sqrt(2)
    assert found.interval.high - found.interval.centre == pytest.approx(half, rel=1e-3)
    assert found.tolerance == proxy.tolerance_of("base", "top1")


def test_a_seed_that_was_not_recorded_is_compared_with_the_mean(
    paper: Reference, proxy: Reference
) -> None:
    for seeds in ({9: 29.6}, {0: 29.5, 9: 29.7}):
        found = at_proxy_scale(proxy, paper, seeds)
        assert found.interval is not None
        assert found.interval.centre == pytest.approx(29.6 - 30.0)


def test_seeds_that_repeat_theirs_nearly_elsewhere_show_a_smaller_change(
    paper: Reference, proxy: Reference
) -> None:
    noise = (0.01, -0.02, 0.0, 0.02, -0.01)
    stored = {seed: 29.5 + 0.25 * seed for seed in range(5)}
    for change, verdict in ((0.0, Verdict.MATCH), (0.5, Verdict.MISS)):
        by_seed = {seed: stored[seed] + change + noise[seed] for seed in stored}
        fresh = {seed + 9: value for seed, value in by_seed.items()}
        found = at_proxy_scale(proxy, paper, by_seed)
        assert found.verdict is verdict
        assert found.firm is (verdict is Verdict.MATCH)
        assert at_proxy_scale(proxy, paper, fresh).verdict is Verdict.MATCH


def test_a_recorded_seed_that_does_not_repeat_misses_whatever_the_other_seeds_give(
    paper: Reference, proxy: Reference
) -> None:
    tolerance = proxy.tolerance_of("base", "top1")
    assert tolerance is not None
    off = 29.75 + 0.2 * tolerance
    assert at_proxy_scale(proxy, paper, {1: off, 9: 30.0}, repeats=True).verdict is Verdict.MISS
    assert at_proxy_scale(proxy, paper, {1: 29.75, 9: 30.0}, repeats=True).verdict is Verdict.MATCH


def test_more_fresh_seeds_have_a_smaller_tolerance_at_proxy_scale_only(
    paper: Reference, proxy: Reference
) -> None:
    one, five = (at_proxy_scale(proxy, paper, runs(30.0, range(9, end))) for end in (10, 14))
    assert one.tolerance is not None
    assert five.tolerance == pytest.approx(one.tolerance / math.sqrt(3.0))
    for seeds in (1, 5):
        measured = {"base": {"top1": runs(78.0, range(seeds))}}
        assert cells(compare(paper, measured, scale="paper"))["base"].tolerance == 1.25


def test_the_recording_itself_is_tested_on_every_claim(
    paper: Reference, provenance: Provenance
) -> None:
    recorded = {"base": {"top1": runs(31.0)}, "ours": {"top1": runs(30.0)}}
    proxy = record_reference(paper, recorded, provenance)
    measured = {"base": {"top1": {9: 30.0}}, "ours": {"top1": {9: 33.0}}}
    gains, cited, errors = compare(proxy, measured, paper).claims
    assert gains.recorded is ClaimVerdict.CONTRADICTED
    assert gains.verdict is not ClaimVerdict.CONTRADICTED
    assert cited.recorded is None
    assert errors.recorded is None  # nothing of that column was recorded
