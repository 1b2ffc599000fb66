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
    block,
    claim_decimals,
    claim_margin,
    claim_result,
    claims_heading,
    heading,
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
    decimals = claim_decimals(comparison, compared)
    result = f"{claim_result(compared, decimals)} ({claim_margin(compared, decimals)})"
    head = _wrapped(compared.claim.text, width, f"  {compared.verdict!s:<13}", hang=0)
    return head + "\n" + _wrapped(result, width, " " * 15, hang=0)


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
