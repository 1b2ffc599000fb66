"""A comparison for people: aligned text for a terminal, and Markdown.

Both say the same, in the same order: what this is and at which scale, one block for each column
with the paper's number, the proxy reference, ours, the difference and the verdict, then the claims,
what did not run and why, and the sum.
"""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import TextIO

from retable.tables.comparison import ComparedCell, ComparedClaim, Comparison
from retable.tables.reference import Column, Value
from retable.tables.verdict import ClaimVerdict, Verdict

_COLOURS = {
    Verdict.MATCH: "32",
    Verdict.MISS: "1;31",
    Verdict.INCONCLUSIVE: "33",
    Verdict.NOT_RUN: "2",
    ClaimVerdict.SUPPORTED: "32",
    ClaimVerdict.CONTRADICTED: "31",
    ClaimVerdict.UNRESOLVED: "33",
}
_EMPTY = "–"  # noqa: RUF001 (typography, not arithmetic)


def supports_colour(stream: TextIO) -> bool:
    """Whether to colour what is written to ``stream``: a terminal, and no NO_COLOR set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def number(value: float, decimals: int, *, signed: bool = False) -> str:
    """Format with a true minus sign and without a negative zero.

    >>> number(-0.04, 1, signed=True), number(1.25, 2)
    ('+0.0', '1.25')
    """
    text = f"{abs(value):.{decimals}f}"
    negative = value < 0 and float(text) != 0.0
    sign = "−" if negative else "+" if signed else ""  # noqa: RUF001
    return sign + text


def stored(value: Value | None, decimals: int) -> str:
    """Format a stored number with its std and, where known, its runs."""
    if value is None:
        return _EMPTY
    text = number(value.value, decimals)
    if value.std is not None:
        text += f" ± {number(value.std, decimals)}"
    return text + (f" ({value.runs})" if value.runs else "")


def measured(cell: ComparedCell, decimals: int) -> str:
    """Format our mean, std and number of seeds."""
    if cell.mean is None:
        return _EMPTY
    text = number(cell.mean, decimals)
    if cell.std is not None:
        text += f" ± {number(cell.std, decimals)}"
    return f"{text} ({len(cell.ours)})"


def difference(cell: ComparedCell, decimals: int) -> str:
    """Format our mean minus the reference with its 95 % interval."""
    if cell.interval is not None:
        low, high = (number(v, decimals) for v in (cell.interval.low, cell.interval.high))
        return f"{number(cell.interval.centre, decimals, signed=True)} [{low}, {high}]"
    if cell.verdict is Verdict.INCONCLUSIVE and cell.mean is not None and cell.reference:
        gap = cell.mean - cell.reference.value
        return f"{number(gap, decimals, signed=True)} [?]"
    return ""


def verdict(cell: ComparedCell) -> str:
    """Say the verdict in a word, or why there is none in two."""
    if cell.verdict is not None:
        return str(cell.verdict)
    if cell.reason.startswith("cited"):
        return "cited"
    return "not judged" if cell.ours else ""


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


def block(comparison: Comparison, column: Column) -> tuple[list[str], list[list[str]]]:
    """Return the heads and lines of one column's block, without the rows that are empty in it."""
    rows = [(row.row.label, row.cells[column.key]) for row in comparison.rows]
    rows = [(label, cell) for label, cell in rows if _has_number(cell) or cell.verdict] or rows
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
    for name in ("difference [95 %]", "tolerance"):
        if not any(fields[name]):
            del fields[name]
    return list(fields), [list(line) for line in zip(*fields.values(), strict=True)]


def shown_columns(comparison: Comparison) -> list[Column]:
    """Return the columns that have any number, or that nothing was measured for anywhere."""
    filled = [
        column
        for column in comparison.columns
        if any(_has_number(row.cells[column.key]) for row in comparison.rows)
    ]
    return filled or list(comparison.columns)


def _has_number(cell: ComparedCell) -> bool:
    return bool(cell.ours) or cell.paper is not None or cell.reference is not None


def heading(column: Column) -> str:
    """Return a column's label with its unit and direction."""
    said = not column.unit or column.unit in column.label or column.label.endswith(")")
    unit = "" if said else f" ({column.unit})"
    return f"{column.label}{unit}, {'higher' if column.higher_is_better else 'lower'} is better"


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
            and not any(c.ours for c in cells.values())
        ):
            sentences.append(f"{column.label}, all rows: {next(iter(gaps.values()))}")
            continue
        for key, reason in gaps.items():
            by_row.setdefault((key, reason), []).append(column.label)
    for (key, reason), columns in by_row.items():
        sentences.append(f"{names[key]} ({', '.join(columns)}): {reason}")
    return sentences


def remarks(comparison: Comparison) -> list[str]:
    """Say what would decide the undecided cells and why measured cells are not judged."""
    found: dict[str, list[str]] = {}
    recorded = comparison.scale != "proxy" or comparison.provenance is not None
    said_at_the_top = bool(comparison.unfinished) or not recorded
    for row in comparison.rows:
        for column in comparison.columns:
            cell = row.cells[column.key]
            if cell.verdict is Verdict.INCONCLUSIVE:
                found.setdefault(_undecided(cell), []).append(row.row.label)
            elif cell.verdict is Verdict.MISS and cell.reason:
                found.setdefault(f"Miss, {cell.reason}", []).append(row.row.label)
            elif cell.verdict is None and cell.ours and not said_at_the_top:
                found.setdefault(f"Not judged, {cell.reason}", []).append(row.row.label)
    return [f"{what}: {_listed(list(dict.fromkeys(names)))}." for what, names in found.items()]


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


def render_terminal(
    comparison: Comparison, *, width: int | None = None, colour: bool = False
) -> str:
    """Return the comparison as aligned text.

    Args:
        comparison: what to show.
        width: columns of the terminal; by default what it says, 100 if it says nothing. Labels
            are wrapped to it; below about 60 the lines may be wider.
        colour: with ANSI colours, see `supports_colour`.
    """
    width = width or shutil.get_terminal_size((100, 24)).columns
    parts = [_wrapped(f"{comparison.id}: {comparison.title}", width)]
    parts += [_wrapped(comparison.paper, width)]
    parts += [_wrapped(sentence, width) for sentence in scale_sentences(comparison)]
    for column in shown_columns(comparison):
        heads, lines = block(comparison, column)
        parts += ["", _wrapped(heading(column), width), _aligned(heads, lines, width)]
    if comparison.claims:
        parts += ["", _wrapped(claims_heading(comparison), width)]
        parts += [_claim_text(comparison, claim, width) for claim in comparison.claims]
    gaps = missing(comparison)
    if gaps:
        parts += ["", "Not run"] + [_wrapped(gap, width, "  ") for gap in gaps]
    notes = remarks(comparison)
    parts += ["", *(_wrapped(note, width) for note in notes)] if notes else [""]
    parts.append(_wrapped(summary(comparison), width))
    text = "\n".join(line.rstrip() for part in parts for line in part.split("\n")) + "\n"
    return _coloured(text) if colour else text


def _wrapped(text: str, width: int, indent: str = "", hang: int = 2) -> str:
    following = " " * (len(indent) + hang)
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=following, break_long_words=False
    )


def _claim_text(comparison: Comparison, compared: ComparedClaim, width: int) -> str:
    decimals = _decimals(comparison, compared)
    result = f"{claim_result(compared, decimals)} ({claim_margin(compared, decimals)})"
    head = _wrapped(compared.claim.text, width, f"  {compared.verdict!s:<13}", hang=0)
    return head + "\n" + _wrapped(result, width, " " * 15, hang=0)


def _decimals(comparison: Comparison, compared: ComparedClaim) -> int:
    return next(c.decimals for c in comparison.columns if c.key == compared.claim.column)


def _aligned(heads: Sequence[str], lines: Sequence[Sequence[str]], width: int) -> str:
    """Align numbers to the right, labels and verdicts to the left; wrap labels, drop nothing.

    Where labels would get less than 24 columns they take a line of their own.
    """
    table = [list(heads), *(list(line) for line in lines)]
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    others = sum(widths[1:]) + 2 * (len(heads) - 1)
    stacked = width - others < min(widths[0], 24)
    widths[0] = 2 if stacked else min(widths[0], width - others)
    text = []
    for index, line in enumerate(table):
        room = width if stacked else widths[0]
        labels = textwrap.wrap(line[0], room, subsequent_indent="  ") or [""]
        cells = [cell.rjust(w) for cell, w in zip(line[1:-1], widths[1:-1], strict=True)]
        numbers = "  ".join([*cells, line[-1]])
        if stacked:
            text += [*(labels if line[0] else []), " " * 4 + numbers]
        else:
            text += [labels[0].ljust(widths[0]) + "  " + numbers, *labels[1:]]
        if index == 0:
            text.append("─" * min(widths[0] + others + (0 if not stacked else 2), width))
    return "\n".join(text)


def _coloured(text: str) -> str:
    """Colour verdicts where they stand alone: at a line's end in blocks, at its start in claims."""
    for found, code in _COLOURS.items():
        colour = rf"\033[{code}m\g<0>\033[0m"
        place = rf"(?<=  ){found}$" if isinstance(found, Verdict) else rf"(?<=^  ){found}(?= )"
        text = re.sub(place, colour, text, flags=re.MULTILINE)
    return re.sub(r"MISS: [^.]*\.", "\033[1;31m\\g<0>\033[0m", text)


def render_markdown(comparison: Comparison, *, level: int = 1) -> str:
    """Return the comparison as Markdown, its title a heading of ``level``."""
    mark = "#" * level
    parts = [f"{mark} {comparison.id}: {comparison.title}", f"*{comparison.paper}*"]
    parts.append("\n".join(scale_sentences(comparison)))
    for column in shown_columns(comparison):
        heads, lines = block(comparison, column)
        parts += [f"{mark}# {heading(column)}", _markdown_table(heads, lines)]
        if column.key in comparison.reasons:
            parts.append(f"Tolerance: {comparison.reasons[column.key]}")
    if comparison.claims:
        parts += [f"{mark}# Claims", claims_heading(comparison) + ".", _markdown_claims(comparison)]
    gaps = missing(comparison)
    if gaps:
        parts += [f"{mark}# Not run", "\n".join(f"- {gap}" for gap in gaps)]
    parts += remarks(comparison)
    parts.append(f"**{summary(comparison)}**")
    if comparison.source:
        parts.append(f"Source of the paper's numbers: {comparison.source}.")
    if comparison.notes:
        parts.append(f"Notes: {comparison.notes}")
    return "\n\n".join(parts) + "\n"


def _markdown_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rules = ["---"] + ["---:"] * (len(heads) - 2) + ["---"]
    table = [list(heads), rules, *(list(line) for line in lines)]
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in table)


def _escaped(text: str) -> str:
    text = re.sub(r"([|*_<>\[\]])", r"\\\1", text)
    return f"**{text}**" if text == Verdict.MISS else text


def _markdown_claims(comparison: Comparison) -> str:
    lines = [
        [
            compared.claim.text,
            claim_margin(compared, _decimals(comparison, compared)),
            claim_result(compared, _decimals(comparison, compared)),
            str(compared.verdict),
        ]
        for compared in comparison.claims
    ]
    table = [["claim", "stated", "ours: difference [95 %]", "verdict"], ["---"] * 4, *lines]
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in table)
