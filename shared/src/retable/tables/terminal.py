"""A comparison as aligned text for a terminal.

In this order: what it is and at which scale; one block for each column with the paper's number,
the proxy reference, ours, the difference and the verdict; the claims; what did not run and why; the
sum.
"""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import TextIO

from retable.tables.comparison import ComparedClaim, Comparison
from retable.tables.phrases import (
    EMPTY,
    block,
    block_heading,
    claim_decimals,
    claim_margin,
    claim_result,
    claims_heading,
    missing,
    remarks,
    scale_sentences,
    shown_columns,
    summary,
)
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


def supports_colour(stream: TextIO) -> bool:
    """Whether to colour what is written to ``stream``: a terminal, and no NO_COLOR set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


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
        parts += [
            "",
            _wrapped(block_heading(comparison, column), width),
            _aligned(heads, lines, width),
        ]
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
    decimals = claim_decimals(comparison, compared)
    result = f"{claim_result(compared, decimals)} ({claim_margin(compared, decimals)})"
    head = _wrapped(compared.claim.text, width, f"  {compared.verdict!s:<13}", hang=0)
    return head + "\n" + _wrapped(result, width, " " * 15, hang=0)


def _aligned(heads: Sequence[str], lines: Sequence[Sequence[str]], width: int) -> str:
    """Align numbers to the right, labels and verdicts to the left; wrap labels, drop nothing.

    Where labels would get less than 24 columns they take a line of their own, and where the numbers
    alone are too wide the first of them join the label.
    """
    table = [[*head.partition(" ")[::2]] for head in heads]
    columns = [[*head, *cells] for head, cells in zip(table, zip(*lines, strict=True), strict=True)]
    widths = [max(map(len, column)) for column in columns]
    if width - sum(widths[1:]) - 2 * len(widths[1:]) >= min(widths[0], 24):
        return _side_by_side(columns, width)
    while 4 + sum(map(_width, columns[1:])) + 2 * len(columns[2:]) > width and len(columns) > 3:
        joined = columns.pop(1)
        name = " ".join(part for part in joined[:2] if part)
        columns[0][2:] = [
            label if value in ("", EMPTY) else f"{label}, {name} {value}"
            for label, value in zip(columns[0][2:], joined[2:], strict=True)
        ]
    return _stacked(columns, width)


def _width(column: Sequence[str]) -> int:
    return max(map(len, column))


def _numbers(columns: Sequence[Sequence[str]], line: int) -> str:
    """Join one line's numbers, each aligned to the right of its column, and its verdict."""
    cells = [column[line].rjust(_width(column)) for column in columns[1:-1]]
    return "  ".join([*cells, columns[-1][line]])


def _rule(columns: Sequence[Sequence[str]], left: int, width: int) -> str:
    return "─" * min(left + sum(_width(column) + 2 for column in columns[1:]), width)


def _side_by_side(columns: Sequence[Sequence[str]], width: int) -> str:
    others = sum(_width(column) + 2 for column in columns[1:])
    room = min(_width(columns[0]), width - others)
    text = []
    for line, label in enumerate(columns[0]):
        wrapped = textwrap.wrap(label, room, subsequent_indent="  ") or [""]
        text += [wrapped[0].ljust(room) + "  " + _numbers(columns, line), *wrapped[1:]]
        if line == 1:
            text.append(_rule(columns, room, width))
    return "\n".join(text)


def _stacked(columns: Sequence[Sequence[str]], width: int) -> str:
    text = []
    for line, label in enumerate(columns[0]):
        text += textwrap.wrap(label, width, subsequent_indent="  ")
        text.append(" " * 4 + _numbers(columns, line))
        if line == 1:
            text.append(_rule(columns, 2, width))
    return "\n".join(text)


def _coloured(text: str) -> str:
    """Colour verdicts where they stand alone: at a line's end in blocks, at its start in claims."""
    for found, code in _COLOURS.items():
        colour = rf"\033[{code}m\g<0>\033[0m"
        place = rf"(?<=  ){found}$" if isinstance(found, Verdict) else rf"(?<=^  ){found}(?= )"
        text = re.sub(place, colour, text, flags=re.MULTILINE)
    return re.sub(r"MISS: [^.]*\.", "\033[1;31m\\g<0>\033[0m", text)
