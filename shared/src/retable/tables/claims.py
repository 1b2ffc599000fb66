"""Test a claim, that one row is above another, on the seeds that both have."""

from __future__ import annotations

from retable.tables.comparison import ComparedClaim, all_finite
from retable.tables.evidence import Evidence, stand_in_spread
from retable.tables.reference import Claim
from retable.tables.statistics import (
    Interval,
    Spread,
    difference_of_means,
    mean_of_differences,
    spread_of,
)
from retable.tables.verdict import ClaimVerdict, judge_claim


def compare_claim(evidence: Evidence, claim: Claim) -> ComparedClaim:
    """Test a claim on the seeds that both rows have."""
    column = evidence.shown.column(claim.column)
    assert column is not None
    sign = 1.0 if column.higher_is_better else -1.0
    better, than = (evidence.ours(key, claim.column) for key in (claim.better, claim.than))
    seeds = sorted(set(better) & set(than))
    differences = {seed: sign * (better[seed] - than[seed]) for seed in seeds}
    unresolved = ClaimVerdict.UNRESOLVED
    if reason := evidence.unfinished or _lost(evidence, claim):
        return ComparedClaim(claim, unresolved, None, differences, None, reason)
    smallest = _smallest(evidence, claim)
    if not all_finite(differences):
        reason = "a run gave a number that is not finite"
        return ComparedClaim(claim, unresolved, None, differences, smallest, reason)
    if not seeds:
        against = _against_printed(evidence, claim, sign)
        if against is not None:
            reason = f"against the printed value of '{claim.than}'"
            verdict = judge_claim(against, smallest)
            return ComparedClaim(claim, verdict, against, {}, smallest, reason)
        return ComparedClaim(claim, unresolved, None, {}, smallest, _no_pairs(evidence, claim))
    interval = mean_of_differences(list(differences.values()), _paired_spread(evidence, claim))
    reason = "" if interval else "one seed and no known spread; run more seeds"
    verdict = judge_claim(interval, smallest)
    return ComparedClaim(claim, verdict, interval, differences, smallest, reason)


def _lost(evidence: Evidence, claim: Claim) -> str:
    """Return why a row has not all of its numbers, so that the others prove nothing."""
    for key in (claim.better, claim.than):
        if failed := evidence.failure(key, claim.column):
            return failed
        if collapsed := len(evidence.collapses(key, claim.column)):
            runs = collapsed + len(evidence.ours(key, claim.column))
            return f"'{key}' collapsed in {collapsed} of {runs} seeds"
    return ""


def _no_pairs(evidence: Evidence, claim: Claim) -> str:
    missing = [
        f"'{key}'" for key in (claim.better, claim.than) if not evidence.ours(key, claim.column)
    ]
    if not missing:
        return "the two rows have no seed in common"
    return f"{' and '.join(missing)} not run"


def _smallest(evidence: Evidence, claim: Claim) -> float | None:
    """At paper scale a margin is part of the claim, less the column's tolerance."""
    if evidence.scale != "paper" or claim.margin <= 0.0:
        return None
    tolerance = evidence.shown.tolerance_of(claim.better, claim.column)
    return None if tolerance is None else claim.margin - tolerance


def _paired_spread(evidence: Evidence, claim: Claim) -> Spread | None:
    """Return the spread of one paired difference as the reference knows it."""
    if evidence.judged_by is None:
        return None
    better = evidence.judged_by.value(claim.better, claim.column)
    than = evidence.judged_by.value(claim.than, claim.column)
    if better and than and better.per_seed and than.per_seed:
        pairs = zip(better.per_seed, than.per_seed, strict=True)
        return spread_of([a - b for a, b in pairs])
    column = evidence.judged_by.column(claim.column)
    if column is None or column.spread is None:
        return None
    # Seeds of one column without pairs on record: two independent runs.
    return Spread(2.0**0.5 * column.spread.std, column.spread.degrees)


def _against_printed(evidence: Evidence, claim: Claim, sign: float) -> Interval | None:
    """Compare with a cited row's printed number, which nobody reruns, at paper scale."""
    than = evidence.shown.row(claim.than)
    ours = list(evidence.ours(claim.better, claim.column).values())
    value = evidence.shown.value(claim.than, claim.column)
    if evidence.scale != "paper" or than is None or than.origin != "cited" or not ours or not value:
        return None
    spread = stand_in_spread(evidence.shown, claim.than, claim.column)
    return difference_of_means(
        [sign * v for v in ours], sign * value.value, value.runs_at_least, spread
    )
