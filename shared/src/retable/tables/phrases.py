"""Wording of values, cells and sentences in every picture and document of a comparison."""

from __future__ import annotations

import re
from collections.abc import Sequence

from retable.tables.comparison import ComparedCell, ComparedClaim, Comparison
from retable.tables.reference import COLLAPSE, Collapse, ColumnSpec, Value
from retable.tables.statistics import Interval
from retable.tables.verdict import ClaimVerdict, Verdict

FIRM = f"{Verdict.MATCH}, firm"
EMPTY = "–"  # noqa: RUF001 (typography, not arithmetic)


def number(value: float, decimals: int, *, signed: bool = False) -> str:
    """Format with a true minus sign and without a negative zero.

    >>> number(-0.04, 1, signed=True), number(1.25, 2)
    ('+0.0', '1.25')
    """
    text = f"{abs(value):.{decimals}f}"
    negative = value < 0 and float(text) != 0.0
    sign = "−" if negative else "+" if signed else ""  # noqa: RUF001
    return sign + text


def stored(value: Value | Collapse | None, decimals: int) -> str:
    """Format a stored value with its std and, if known, its runs, or a collapse."""
    if value is None:
        return EMPTY
    if isinstance(value, Collapse):
        return COLLAPSE + (f" ({value.collapsed} of {value.runs})" if value.runs else "")
    return _mean_and_std(value.value, value.std, value.runs, decimals)


def _mean_and_std(mean: float, std: float | None, runs: int | None, decimals: int) -> str:
    text = number(mean, decimals)
    if std is not None:
        text += f" ± {number(std, decimals)}"
    return text + (f" ({runs})" if runs else "")


def measured(cell: ComparedCell, decimals: int) -> str:
    """Format our mean, std and number of seeds, and the number of collapsed seeds."""
    parts = []
    if cell.mean is not None:
        parts = [_mean_and_std(cell.mean, cell.std, len(cell.ours), decimals)]
    if cell.collapsed:
        parts.append(f"{COLLAPSE} ({len(cell.collapsed)})")
    return ", ".join(parts) or EMPTY


def mean_and_std(cell: ComparedCell, decimals: int) -> str:
    """Format our mean and std without the number of seeds, or a collapse; empty without either."""
    parts = []
    if cell.mean is not None:
        parts = [_mean_and_std(cell.mean, cell.std, None, decimals)]
    if cell.collapsed:
        parts.append(COLLAPSE)
    return ", ".join(parts)


def _interval(interval: Interval, decimals: int, *, signed: bool = True) -> str:
    low, high = (number(v, decimals) for v in (interval.low, interval.high))
    return f"{number(interval.centre, decimals, signed=signed)} [{low}, {high}]"


def difference(cell: ComparedCell, decimals: int) -> str:
    """Format our mean minus the reference with its 95 % interval."""
    if cell.interval is not None:
        return _interval(cell.interval, decimals)
    undecided = cell.verdict is Verdict.INCONCLUSIVE and not cell.collapsed
    if undecided and cell.mean is not None and isinstance(cell.reference, Value):
        gap = cell.mean - cell.reference.value
        return f"{number(gap, decimals, signed=True)} [?]"
    return ""


def verdict(cell: ComparedCell) -> str:
    """Format the verdict, "cited" or "no verdict"; empty for a cell that was not to be run."""
    if cell.verdict is not None:
        return FIRM if cell.firm else str(cell.verdict)
    if cell.reason.startswith("cited"):
        return "cited"
    return "no verdict" if cell.measured else ""


def scale_title(comparison: Comparison) -> str:
    """Return the scale, with the warning about absolute numbers below paper scale."""
    if comparison.scale == "paper":
        return "paper scale"
    return f"{comparison.scale} scale, absolute numbers are not the paper's"


def scale_sentences(comparison: Comparison) -> list[str]:
    """Return sentences about the scale, what the verdicts compare with, and their limits."""
    place = "the built-in data set with a small encoder: absolute numbers are not the paper's"
    if comparison.scale == "paper":
        place = comparison.table.dataset
    recorded = comparison.provenance
    first = f"Scale: {comparison.scale}, on {place}."
    sentences = [" ".join([first, *(_regression(comparison) if recorded else [])])]
    if comparison.scale == "paper":
        sentences.append("Verdicts compare with the paper's numbers.")
    elif recorded is not None:
        sentences.append(
            f"Verdicts compare with the proxy reference that we recorded on {recorded.date}"
            f" ({len(recorded.seeds)} seeds, commit {_short(recorded.commit)})."
        )
    elif comparison.scale == "proxy":
        sentences.append("No proxy reference is recorded: there is nothing to compare with.")
    if any(cell.tolerance is not None for cell in comparison.cells):
        sentences += [_PAIRING[comparison.pairing], _LEGEND]
    if comparison.unfinished:
        sentences.append(f"No verdicts: {comparison.unfinished}.")
    return list(filter(None, sentences))


_PAIRING = {
    "": "",
    "paired": (
        "These seeds were recorded, on another machine or by other code: each is compared with its"
        " own recorded number, in the mean."
    ),
    "repeated": (
        "These seeds were recorded with this processor, its instructions and these versions: each"
        " must give its recorded number, up to a tenth of the tolerance."
    ),
}
_LEGEND = (
    "match: the difference is within the tolerance; firm: so is its whole 95 % interval. miss: the"
    " interval is completely outside. inconclusive: the difference is outside, the interval reaches"
    " in."
)


def _short(commits: str) -> str:
    """Return commits with twelve digits each."""
    return re.sub("[0-9a-f]{12,}", lambda found: found[0][:12], commits)


def _regression(comparison: Comparison) -> list[str]:
    """Say what a match with our own recording does not say."""
    sentences = []
    if len(comparison.seeds) == 1:
        sentences = [
            "With one seed, a match is a regression check: the code gives what we recorded, whether"
            " or not the paper's order holds."
        ]
    orders = [
        f"'{_label(comparison, one.claim.better)}' {_better(comparison, one)} than"
        f" '{_label(comparison, one.claim.than)}' ({_column(comparison, one).label})"
        for one in comparison.claims
        if one.recorded is ClaimVerdict.CONTRADICTED and not one.claim.bounded
    ]
    if orders:
        sentences.append(f"The recording contradicts the paper's order: {'; '.join(orders)}.")
    return sentences


def _label(comparison: Comparison, key: str) -> str:
    return next(row.row.label for row in comparison.rows if row.row.key == key)


def _better(comparison: Comparison, compared: ComparedClaim) -> str:
    return "higher" if _column(comparison, compared).higher_is_better is None else "better"


def _column(comparison: Comparison, compared: ComparedClaim) -> ColumnSpec:
    return next(c for c in comparison.columns if c.key == compared.claim.column)


def tolerance(cell: ComparedCell, decimals: int) -> str:
    """Format the tolerance, with one more decimal if the shown ones would hide it."""
    if cell.tolerance is None:
        return ""
    rounded = round(cell.tolerance, decimals)
    exact = abs(rounded - cell.tolerance) < 0.05 * 10.0**-decimals
    return f"±{number(cell.tolerance, decimals if exact else decimals + 1)}"


def noticed(cells: Sequence[ComparedCell], decimals: int) -> str:
    """Say which change a column would notice, from its cells with a verdict on a value."""
    compared = [cell for cell in cells if cell.tolerance is not None and cell.mean is not None]
    limits = sorted(cell.smallest_miss for cell in compared if cell.smallest_miss is not None)
    if not compared:
        return ""
    if not limits:
        return "No change would be noticed: no spread is known, run more seeds."
    # A small limit has one more decimal, which the shown ones would hide.
    places = decimals if limits[0] >= 10.0 ** (1 - decimals) else decimals + 1
    first, last = (number(limits[place], places) for place in (0, -1))
    by_row = "" if first == last else f" to {last}, by row"
    return f"Smallest change that would be noticed, as a miss: {first}{by_row}."


def label(column: ColumnSpec) -> str:
    """Return a column's label with its unit."""
    has_unit = not column.unit or column.unit in column.label or column.label.endswith(")")
    return column.label if has_unit else f"{column.label} ({column.unit})"


def heading(column: ColumnSpec) -> str:
    """Return a column's label with its unit and, where one is better, its direction."""
    if column.higher_is_better is None:
        return label(column)
    return f"{label(column)}, {'higher' if column.higher_is_better else 'lower'} is better"


def claim_result(compared: ComparedClaim, decimals: int) -> str:
    """Format a claim's difference, interval and number of seeds, or why there is none."""
    if compared.interval is None:
        return compared.reason
    count, paired = len(compared.differences), "paired " if compared.claim.than else ""
    seeds = f"{count} {paired}seed{'s' if count > 1 else ''}" if count else compared.reason
    result = f"{_interval(compared.interval, decimals, signed=bool(compared.claim.than))}, {seeds}"
    if compared.verdict is ClaimVerdict.NOT_TESTED:
        result += f"; {compared.reason}"
    return result


def claim_margin(compared: ComparedClaim, decimals: int) -> str:
    """Format the margin that the paper prints, and the value below which it is contradicted."""
    claim, margin = compared.claim, compared.claim.margin
    if claim.bounded:
        bounds = {"at least": claim.at_least, "at most": claim.at_most}
        stated = [f"{which} {bound:g}" for which, bound in bounds.items() if bound is not None]
        return ", ".join(stated)
    if margin == 0.0:
        return "paper: the order only"
    text = f"paper: {number(margin, decimals, signed=True)}"
    if compared.smallest is None or compared.smallest <= 0.0:
        return text
    return f"{text}, contradicted below {number(compared.smallest, decimals, signed=True)}"


def missing(comparison: Comparison) -> list[str]:
    """List what did not run with its reason: empty columns once, else by row."""
    return [f"{subject}: {reason}" for subject, reason in _gaps(comparison)]


def missing_by_reason(comparison: Comparison) -> list[str]:
    """List the reasons for what did not run, each once with up to four of its columns or rows."""
    found: dict[str, list[str]] = {}
    for subject, reason in _gaps(comparison):
        found.setdefault(reason, []).append(subject)
    return [
        f"{'; '.join(subjects) if len(subjects) <= 4 else f'{len(subjects)} rows or columns'}: "
        f"{reason}"
        for reason, subjects in found.items()
    ]


def _gaps(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what did not run, with the reason."""
    names = {row.row.key: row.row.label for row in comparison.rows}
    found, by_row = [], dict[tuple[str, str], list[str]]()
    for column in comparison.columns:
        cells = {row.row.key: row.cells[column.key] for row in comparison.rows}
        gaps = {
            key: cell.reason or "not requested in this run"
            for key, cell in cells.items()
            if cell.verdict is Verdict.NOT_RUN
        }
        reasons, measured = set(gaps.values()), any(cell.measured for cell in cells.values())
        if len(gaps) > 1 and len(reasons) == 1 and not measured:
            found.append((f"{column.label}, all rows", reasons.pop()))
            continue
        for key, reason in gaps.items():
            by_row.setdefault((key, reason), []).append(column.label)
    for (key, reason), columns in by_row.items():
        found.append((f"{names[key]} ({', '.join(columns)})", reason))
    return found


def remarks(comparison: Comparison) -> list[str]:
    """Say why cells collapsed, missed or have no verdict, and how many seeds would decide them."""
    found: dict[str, dict[str, None]] = {}  # remark -> rows with their columns, in order
    recorded = comparison.scale != "proxy" or comparison.provenance is not None
    said_before = bool(comparison.unfinished) or not recorded  # by `scale_sentences`
    for row in comparison.rows:
        for column in comparison.columns:
            cell, label = row.cells[column.key], f"{row.row.label} ({column.label})"
            for why in dict.fromkeys(cell.collapsed.values()):
                seeds = [str(seed) for seed, other in cell.collapsed.items() if other == why]
                count = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
                found.setdefault(f"Collapse, {why}", {})[f"{row.row.label} ({count})"] = None
            if cell.verdict is Verdict.INCONCLUSIVE:
                found.setdefault(_undecided(cell), {})[label] = None
            elif cell.verdict is Verdict.MISS and cell.reason:
                found.setdefault(f"Miss, {cell.reason}", {})[label] = None
            elif cell.verdict is None and cell.measured and not said_before:
                found.setdefault(f"No verdict, {cell.reason}", {})[label] = None
    return [
        f"{remark}: {'; '.join(cells) if len(cells) <= 4 else f'{len(cells)} cells'}."
        for remark, cells in found.items()
    ]


def _undecided(cell: ComparedCell) -> str:
    if cell.reason:
        return f"Inconclusive, {cell.reason}"
    if cell.seeds_needed is None:
        return "Inconclusive, and at this difference and spread not even 100 seeds would decide"
    seeds = f"{cell.seeds_needed} seeds in all"
    return f"Inconclusive; at this difference and spread {seeds} would decide"


def summary(comparison: Comparison) -> str:
    """Count the verdicts in one sentence and name every miss."""
    counts, claims = comparison.counts(), comparison.claim_counts()
    cells = {verdict: f"{counts[verdict]} {verdict}" for verdict in Verdict}
    if firm := comparison.firm_matches():
        cells[Verdict.MATCH] += f" ({firm} firm)"
    text = f"Cells: {', '.join(cells.values())}."
    if comparison.claims:
        text += " Claims: " + ", ".join(f"{claims[v]} {v}" for v in ClaimVerdict) + "."
    for row, column in comparison.misses():
        text += f" MISS: row '{row}', column '{column}'."
    return text
