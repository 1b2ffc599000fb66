"""How each part of a comparison is said: one wording for terminal, Markdown and HTML."""

from __future__ import annotations

from retable.tables.comparison import ComparedCell, ComparedClaim, Comparison
from retable.tables.reference import COLLAPSE, Collapse, ColumnSpec, Value
from retable.tables.verdict import ClaimVerdict, Verdict

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
    """Format a stored number with its std and, where known, its runs, or say a collapse.

    >>> stored(Collapse(), 1), stored(Collapse(3, 5), 1)
    ('collapse', 'collapse (3 of 5)')
    """
    if value is None:
        return EMPTY
    if isinstance(value, Collapse):
        return COLLAPSE + (f" ({value.collapsed} of {value.runs})" if value.runs else "")
    text = number(value.value, decimals)
    if value.std is not None:
        text += f" ± {number(value.std, decimals)}"
    return text + (f" ({value.runs})" if value.runs else "")


def measured(cell: ComparedCell, decimals: int) -> str:
    """Format our mean, std and number of seeds, and how many collapsed."""
    collapse = f"{COLLAPSE} ({len(cell.collapsed)})" if cell.collapsed else ""
    if cell.mean is None:
        return collapse or EMPTY
    text = number(cell.mean, decimals)
    if cell.std is not None:
        text += f" ± {number(cell.std, decimals)}"
    return f"{text} ({len(cell.ours)})" + (f", {collapse}" if collapse else "")


def difference(cell: ComparedCell, decimals: int) -> str:
    """Format our mean minus the reference with its 95 % interval."""
    if cell.interval is not None:
        low, high = (number(v, decimals) for v in (cell.interval.low, cell.interval.high))
        return f"{number(cell.interval.centre, decimals, signed=True)} [{low}, {high}]"
    undecided = cell.verdict is Verdict.INCONCLUSIVE and not cell.collapsed
    if undecided and cell.mean is not None and isinstance(cell.reference, Value):
        gap = cell.mean - cell.reference.value
        return f"{number(gap, decimals, signed=True)} [?]"
    return ""


def verdict(cell: ComparedCell) -> str:
    """Say the verdict in a word, or why there is none in two."""
    if cell.verdict is not None:
        return str(cell.verdict)
    if cell.reason.startswith("cited"):
        return "cited"
    return "not judged" if cell.ours or cell.collapsed else ""


def scale_sentences(comparison: Comparison) -> list[str]:
    """Say at which scale this ran, what the verdicts compare with, and what they cannot say."""
    if comparison.scale == "paper":
        first = f"Scale: paper, on {comparison.dataset}."
        sentences = [first, "Verdicts compare with the paper's numbers."]
    else:
        sentences = [
            f"Scale: {comparison.scale}, on the built-in data set with a small encoder:"
            " absolute numbers are not the paper's."
        ]
        recorded = comparison.provenance
        if comparison.scale == "proxy" and recorded is not None:
            sentences.append(
                f"Verdicts compare with the proxy reference that we recorded on {recorded.date}"
                f" ({len(recorded.seeds)} seeds, commit {recorded.commit[:12]})."
            )
        elif comparison.scale == "proxy":
            sentences.append("No proxy reference is recorded: there is nothing to compare with.")
    if comparison.unfinished:
        sentences.append(f"No verdicts: {comparison.unfinished}.")
    return sentences


def tolerance(cell: ComparedCell, decimals: int) -> str:
    """Format the tolerance, with one more decimal where the shown ones would hide it."""
    if cell.tolerance is None:
        return ""
    rounded = round(cell.tolerance, decimals)
    exact = abs(rounded - cell.tolerance) < 0.05 * 10.0**-decimals
    return f"±{number(cell.tolerance, decimals if exact else decimals + 1)}"


def block(comparison: Comparison, column: ColumnSpec) -> tuple[list[str], list[list[str]]]:
    """Return the heads and lines of one column's block, without the rows that are empty in it."""
    rows = [(row.row.label, row.cells[column.key]) for row in comparison.rows]
    rows = [(label, cell) for label, cell in rows if _says(cell) or cell.verdict] or rows
    decimals = column.decimals
    fields = {
        "": [label for label, _ in rows],
        "paper": [stored(cell.paper, decimals) for _, cell in rows],
        "proxy reference": [stored(cell.reference, decimals) for _, cell in rows],
        "ours (seeds)": [measured(cell, decimals) for _, cell in rows],
        "difference [95 %]": [difference(cell, decimals) for _, cell in rows],
        "tolerance": [tolerance(cell, decimals) for _, cell in rows],
        "verdict": [verdict(cell) for _, cell in rows],
    }
    if comparison.provenance is None:
        del fields["proxy reference"]
    if not any(cell.paper for _, cell in rows):  # said in the heading
        del fields["paper"]
    for name in ("difference [95 %]", "tolerance"):
        if not any(fields[name]):
            del fields[name]
    return list(fields), [list(line) for line in zip(*fields.values(), strict=True)]


def shown_columns(comparison: Comparison) -> list[ColumnSpec]:
    """Return the columns that say anything, or that nothing was measured for anywhere."""
    filled = [
        column
        for column in comparison.columns
        if any(_says(row.cells[column.key]) for row in comparison.rows)
    ]
    return filled or list(comparison.columns)


def _says(cell: ComparedCell) -> bool:
    stored = cell.paper is not None or cell.reference is not None
    return bool(cell.ours or cell.collapsed) or stored


def heading(column: ColumnSpec) -> str:
    """Return a column's label with its unit and direction."""
    said = not column.unit or column.unit in column.label or column.label.endswith(")")
    unit = "" if said else f" ({column.unit})"
    return f"{column.label}{unit}, {'higher' if column.higher_is_better else 'lower'} is better"


def block_heading(comparison: Comparison, column: ColumnSpec) -> str:
    """Return a block's heading, which says where the paper prints no number for the column."""
    printed = any(row.cells[column.key].paper for row in comparison.rows)
    return heading(column) + ("" if printed else "; the paper prints no number")


def claim_result(compared: ComparedClaim, decimals: int) -> str:
    """Say a claim's difference, interval and number of seeds, or why there is none."""
    if compared.interval is None:
        return compared.reason
    low, high = (number(v, decimals) for v in (compared.interval.low, compared.interval.high))
    text = f"{number(compared.interval.centre, decimals, signed=True)} [{low}, {high}]"
    count = len(compared.differences)
    seeds = f"{count} paired seed{'s' if count > 1 else ''}" if count else compared.reason
    return f"{text}, {seeds}"


def claim_margin(compared: ComparedClaim, decimals: int) -> str:
    """Say the margin that the paper prints, and below what it counts as contradicted."""
    margin = compared.claim.margin
    if margin == 0.0:
        return "paper: the order only"
    text = f"paper: {number(margin, decimals, signed=True)}"
    if compared.smallest is None or compared.smallest <= 0.0:
        return text
    return f"{text}, contradicted below {number(compared.smallest, decimals, signed=True)}"


def claims_heading(comparison: Comparison) -> str:
    """Say how the claims below it are tested."""
    text = "Claims: the better row minus the other, paired by seed, with its 95 % interval"
    if comparison.scale == "paper":
        return text
    return f"{text}; only the order is tested, the margins are the paper's"


def missing(comparison: Comparison) -> list[str]:
    """List what did not run with its reason: whole columns once, else by row."""
    names = {row.row.key: row.row.label for row in comparison.rows}
    sentences, by_row = [], dict[tuple[str, str], list[str]]()
    for column in comparison.columns:
        cells = {row.row.key: row.cells[column.key] for row in comparison.rows}
        gaps = {
            key: cell.reason or "not requested in this run"
            for key, cell in cells.items()
            if cell.verdict is Verdict.NOT_RUN
        }
        if (
            len(gaps) > 1
            and len(set(gaps.values())) == 1
            and not any(c.ours or c.collapsed for c in cells.values())
        ):
            sentences.append(f"{column.label}, all rows: {next(iter(gaps.values()))}")
            continue
        for key, reason in gaps.items():
            by_row.setdefault((key, reason), []).append(column.label)
    for (key, reason), columns in by_row.items():
        sentences.append(f"{names[key]} ({', '.join(columns)}): {reason}")
    return sentences


def remarks(comparison: Comparison) -> list[str]:
    """Say why cells collapsed or missed, what would decide them, and why they are not judged."""
    found: dict[str, list[str]] = {}
    recorded = comparison.scale != "proxy" or comparison.provenance is not None
    said_at_the_top = bool(comparison.unfinished) or not recorded
    for row in comparison.rows:
        for column in comparison.columns:
            cell = row.cells[column.key]
            for why, seeds in _collapses(cell).items():
                found.setdefault(f"Collapse, {why}", []).append(f"{row.row.label} ({seeds})")
            if cell.verdict is Verdict.INCONCLUSIVE:
                found.setdefault(_undecided(cell), []).append(row.row.label)
            elif cell.verdict is Verdict.MISS and cell.reason:
                found.setdefault(f"Miss, {cell.reason}", []).append(row.row.label)
            elif cell.verdict is None and (cell.ours or cell.collapsed) and not said_at_the_top:
                found.setdefault(f"Not judged, {cell.reason}", []).append(row.row.label)
    return [f"{what}: {_listed(list(dict.fromkeys(names)))}." for what, names in found.items()]


def _collapses(cell: ComparedCell) -> dict[str, str]:
    """Return reason -> the seeds that collapsed for it, in words."""
    found: dict[str, list[str]] = {}
    for seed, why in cell.collapsed.items():
        found.setdefault(why, []).append(str(seed))
    return {
        why: f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
        for why, seeds in found.items()
    }


def _listed(names: list[str]) -> str:
    return "; ".join(names) if len(names) <= 4 else f"{len(names)} rows"


def _undecided(cell: ComparedCell) -> str:
    if cell.interval is None:
        return f"Inconclusive, {cell.reason}"
    if cell.seeds_needed is None:
        return "Inconclusive, and at this difference and spread not even 100 seeds would decide"
    return f"Inconclusive; at this difference and spread {cell.seeds_needed} seeds would decide"


def summary(comparison: Comparison) -> str:
    """Count the verdicts in one sentence and name every miss."""
    counts, claims = comparison.counts(), comparison.claim_counts()
    cells = ", ".join(f"{counts[v]} {v}" for v in Verdict)
    text = f"Cells: {cells}."
    if comparison.claims:
        text += " Claims: " + ", ".join(f"{claims[v]} {v}" for v in ClaimVerdict) + "."
    for row, column in comparison.misses():
        text += f" MISS: row '{row}', column '{column}'."
    return text


def claim_decimals(comparison: Comparison, compared: ComparedClaim) -> int:
    """Return the decimals of the column that a claim is about."""
    return next(c.decimals for c in comparison.columns if c.key == compared.claim.column)
