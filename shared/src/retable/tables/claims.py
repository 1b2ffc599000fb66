"""Verdicts on claims: one row of a table above another."""

from __future__ import annotations

from retable.tables.cells import NOT_FINITE
from retable.tables.comparison import ComparedClaim, all_finite
from retable.tables.reference import Claim
from retable.tables.sides import Sides, cell_spread
from retable.tables.statistics import (
    Interval,
    Spread,
    difference_of_means,
    mean_of_differences,
    spread_of,
)
from retable.tables.verdict import ClaimVerdict, claim_verdict


def compare_claim(both: Sides, claim: Claim) -> ComparedClaim:
    """Test a claim on the differences of our rows, paired by seed."""
    sign = _sign(both, claim)
    better, than = (both.ours(key, claim.column) for key in (claim.better, claim.than))
    seeds = sorted(better.keys() & than.keys())
    differences = {seed: sign * (better[seed] - than[seed]) for seed in seeds}
    smallest = _smallest(both, claim)
    interval, reason = None, both.unfinished or _incomplete(both, claim)
    if reason:
        smallest = None
    elif not all_finite(differences):
        reason = NOT_FINITE
    elif seeds:
        interval = mean_of_differences(list(differences.values()), _paired_spread(both, claim))
        reason = "" if interval else "one seed and no known spread; run more seeds"
    elif interval := _difference_from_printed(both, claim, sign):
        reason = f"against the printed value of '{claim.than}'"
    else:
        found = {claim.better: better, claim.than: than}
        missing = " and ".join(f"'{key}'" for key, values in found.items() if not values)
        reason = f"{missing} not run" if missing else "the two rows have no seed in common"
    verdict = claim_verdict(interval, smallest)
    recorded = _recorded_verdict(both, claim, sign)
    return ComparedClaim(claim, verdict, interval, differences, smallest, reason, recorded)


def _sign(both: Sides, claim: Claim) -> float:
    """Return -1 where lower is better; without a better, the first row is claimed to be higher."""
    column = both.shown.column(claim.column)
    assert column is not None
    return -1.0 if column.higher_is_better is False else 1.0


def _recorded_verdict(both: Sides, claim: Claim, sign: float) -> ClaimVerdict | None:
    """Test a claim on the recorded numbers themselves."""
    pairs = _recorded_differences(both, claim)
    if not pairs:
        return None
    return claim_verdict(mean_of_differences([sign * pair for pair in pairs]))


def _recorded_differences(both: Sides, claim: Claim) -> list[float]:
    """Return the recorded values of the first row minus those of the second, by seed."""
    if both.target is None or not both.target.recorded:
        return []
    better = both.target.value(claim.better, claim.column)
    than = both.target.value(claim.than, claim.column)
    if not (better and than and better.per_seed and than.per_seed):
        return []
    return [a - b for a, b in zip(better.per_seed, than.per_seed, strict=True)]


def _incomplete(both: Sides, claim: Claim) -> str:
    """Return why a row lacks some of its values, so that the others prove nothing."""
    for key in (claim.better, claim.than):
        if failed := both.failure(key, claim.column):
            return failed
        if collapsed := len(both.collapses(key, claim.column)):
            runs = collapsed + len(both.ours(key, claim.column))
            return f"'{key}' collapsed in {collapsed} of {runs} seeds"
    return ""


def _smallest(both: Sides, claim: Claim) -> float | None:
    """Return the margin less the column's tolerance at paper scale; elsewhere only order counts."""
    if both.scale != "paper" or claim.margin <= 0.0:
        return None
    tolerance = both.shown.tolerance_of(claim.better, claim.column)
    return None if tolerance is None else claim.margin - tolerance


def _paired_spread(both: Sides, claim: Claim) -> Spread | None:
    """Return the spread of one paired difference as the reference knows it."""
    if both.target is None:
        return None
    if pairs := _recorded_differences(both, claim):
        return spread_of(pairs)
    column = both.target.column(claim.column)
    if column is None or column.spread is None:
        return None
    # Without recorded pairs, the difference of two independent runs of the column.
    return Spread(2.0**0.5 * column.spread.std, column.spread.degrees)


def _difference_from_printed(both: Sides, claim: Claim, sign: float) -> Interval | None:
    """Compare with the printed value of a cited row, which nobody reruns, at paper scale."""
    than = both.shown.row(claim.than)
    ours = list(both.ours(claim.better, claim.column).values())
    value = both.shown.value(claim.than, claim.column)
    if both.scale != "paper" or than is None or than.origin != "cited" or not ours or not value:
        return None
    spread = cell_spread(both.shown, claim.than, claim.column)
    return difference_of_means(
        [sign * v for v in ours], sign * value.value, value.runs_at_least, spread
    )
