"""Verdicts on claims: one row of a table above another, or a number within bounds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from retable.tables.cells import NOT_FINITE
from retable.tables.comparison import ComparedClaim, all_finite
from retable.tables.reference import Claim, Collapse, Reference
from retable.tables.sides import Sides, cell_spread
from retable.tables.statistics import (
    Interval,
    Spread,
    difference_of_means,
    mean_of_differences,
    spread_of,
)
from retable.tables.verdict import ClaimVerdict, bounded_verdict, claim_verdict


@dataclass(frozen=True)
class Fact:
    """What the field has reproduced, and whether the recorded facts show it with these recipes.

    Attributes:
        text: the fact in words.
        shows: whether every claim of its key is supported by the recorded numbers.
        reason: what the recorded numbers say instead, empty if it shows.
    """

    text: str
    shows: bool
    reason: str = ""


Facts = Mapping[str, Fact]
"""Facts by the keys that claims depend on."""


def recorded_facts(stated: Reference, recorded: Reference | None) -> dict[str, Fact]:
    """Return the facts of a table of claims with keys, tested on its recorded numbers."""
    by_key: dict[str, list[Claim]] = {}
    for claim in stated.claims:
        if claim.key:
            by_key.setdefault(claim.key, []).append(claim)
    return {key: _fact(claims, stated, recorded) for key, claims in by_key.items()}


def _fact(claims: list[Claim], stated: Reference, recorded: Reference | None) -> Fact:
    text = " ".join(claim.text for claim in claims)
    if recorded is None:
        return Fact(text, shows=False, reason="not recorded")
    verdicts = [_recorded_verdict(stated, recorded, claim) for claim in claims]
    missed = [str(v or "no numbers") for v in verdicts if v is not ClaimVerdict.SUPPORTED]
    return Fact(text, shows=not missed, reason=missed[0] if missed else "")


def compare_claim(both: Sides, claim: Claim, facts: Facts | None = None) -> ComparedClaim:
    """Test a claim on the differences of our rows, paired by seed.

    A claim that depends on one of ``facts`` that does not show is not tested, whatever its
    difference. None: no facts are known at this scale, and every claim is tested.
    """
    differences = _differences(both, claim)
    smallest = _smallest(both, claim)
    interval, reason = None, both.unfinished or _incomplete(both, claim)
    if reason:
        smallest = None
    elif not all_finite(differences):
        reason = NOT_FINITE
    elif differences:
        spread = _spread(both, claim, differences)
        interval = mean_of_differences(list(differences.values()), spread)
        reason = "" if interval else "one seed and no known spread; run more seeds"
    elif interval := _difference_from_printed(both, claim):
        reason = f"against the printed value of '{claim.than}'"
    else:
        rows = [row for row in (claim.better, claim.than) if row]
        missing = " and ".join(f"'{row}'" for row in rows if not both.ours(row, claim.column))
        reason = f"{missing} not run" if missing else "the two rows have no seed in common"
    verdict, recorded = _verdict(claim, interval, smallest), None
    if _only_the_other_collapsed(both, claim):
        verdict = ClaimVerdict.SUPPORTED
    if both.target is not None and both.target.recorded:
        recorded = _recorded_verdict(both.shown, both.target, claim)
    if not both.unfinished and (why := _does_not_show(claim, facts)):
        verdict, reason = ClaimVerdict.NOT_TESTED, why
    return ComparedClaim(claim, verdict, interval, differences, smallest, reason, recorded)


def _only_the_other_collapsed(both: Sides, claim: Claim) -> bool:
    """Say whether all runs of the second row collapsed and the first row has its numbers."""
    better = both.ours(claim.better, claim.column)
    collapsed = both.collapses(claim.than, claim.column)
    whole = not both.ours(claim.than, claim.column) and not both.failure(claim.than, claim.column)
    return bool(
        collapsed
        and whole
        and not claim.bounded
        and not both.unfinished
        and collapsed.keys() <= better.keys()
        and all_finite(better)
        and not both.collapses(claim.better, claim.column)
    )


def _does_not_show(claim: Claim, facts: Facts | None) -> str:
    """Return which fact that a claim depends on does not show, empty if all do."""
    if facts is None:
        return ""
    for key in claim.depends_on:
        fact = facts.get(key)
        if fact is None or not fact.shows:
            text = fact.text.rstrip(".") if fact else key
            why = fact.reason if fact else "not among the facts"
            return f"'{text}' does not show here ({why})"
    return ""


def _verdict(claim: Claim, interval: Interval | None, smallest: float | None) -> ClaimVerdict:
    if claim.bounded:
        return bounded_verdict(interval, claim.at_least, claim.at_most)
    return claim_verdict(interval, smallest)


def _differences(both: Sides, claim: Claim) -> dict[int, float]:
    """Return the first row's value minus the second's by seed, or the value alone."""
    sign = _sign(both.shown, claim)
    better = both.ours(claim.better, claim.column)
    if not claim.than:
        return dict(sorted(better.items()))
    than = both.ours(claim.than, claim.column)
    return {seed: sign * (better[seed] - than[seed]) for seed in sorted(better.keys() & than)}


def _sign(shown: Reference, claim: Claim) -> float:
    """Return -1 where lower is better; without a better, the first row is claimed to be higher.

    Bounds are stated in the column's own sign.
    """
    column = shown.column(claim.column)
    assert column is not None
    return -1.0 if column.higher_is_better is False and not claim.bounded else 1.0


def _recorded_verdict(stated: Reference, recorded: Reference, claim: Claim) -> ClaimVerdict | None:
    """Test a claim on the recorded numbers themselves."""
    other = recorded.stored(claim.than, claim.column)
    if isinstance(other, Collapse) and other.always and other.runs and not claim.bounded:
        better = recorded.value(claim.better, claim.column)
        return ClaimVerdict.SUPPORTED if better is not None else None
    numbers = list(recorded_differences(stated, recorded, claim).values())
    return _verdict(claim, mean_of_differences(numbers), None) if numbers else None


def recorded_differences(stated: Reference, recorded: Reference, claim: Claim) -> dict[int, float]:
    """Return what `_differences` does, of the recorded runs by their seeds."""
    sign = _sign(stated, claim)
    better, than = (recorded.value(row, claim.column) for row in (claim.better, claim.than))
    if better is None or not better.per_seed or recorded.provenance is None:
        return {}
    numbers = list(better.per_seed)
    if claim.than:
        if than is None or not than.per_seed:
            return {}
        pairs = zip(better.per_seed, than.per_seed, strict=True)
        numbers = [sign * (a - b) for a, b in pairs]
    return dict(zip(recorded.provenance.seeds, numbers, strict=True))


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


def _spread(both: Sides, claim: Claim, own: Collection[int]) -> Spread | None:
    """Return the spread of one of `_differences` as the reference knows it.

    Seeds that we ran too, ``own``, count once, as ours: repeated, they are no further evidence.
    """
    if both.target is None:
        return None
    if both.target.recorded and (pairs := recorded_differences(both.shown, both.target, claim)):
        return spread_of([pair for seed, pair in pairs.items() if seed not in own])
    column = both.target.column(claim.column)
    if column is None or column.spread is None:
        return None
    # Without recorded pairs, the difference of two independent runs of the column.
    runs = 2.0 if claim.than else 1.0
    return Spread(runs**0.5 * column.spread.std, column.spread.degrees)


def _difference_from_printed(both: Sides, claim: Claim) -> Interval | None:
    """Compare with the printed value of a cited row, which nobody reruns, at paper scale."""
    than = both.shown.row(claim.than)
    ours = list(both.ours(claim.better, claim.column).values())
    value = both.shown.value(claim.than, claim.column)
    if both.scale != "paper" or than is None or than.origin != "cited" or not ours or not value:
        return None
    sign, spread = _sign(both.shown, claim), cell_spread(both.shown, claim.than, claim.column)
    return difference_of_means(
        [sign * v for v in ours], sign * value.value, value.runs_at_least, spread
    )
