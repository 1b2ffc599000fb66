"""Documents as aligned text for a terminal."""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import TextIO

from retable.tables.compact import compact_document
from retable.tables.comparison import Comparison
from retable.tables.document import Cells, Heading, Paragraph, document
from retable.tables.phrases import EMPTY
from retable.tables.verdict import ClaimVerdict, Verdict
from retable.text import printable

_COLOURS = {
    Verdict.MATCH: "32",
    Verdict.MISS: "1;31",
    Verdict.INCONCLUSIVE: "33",
    Verdict.NOT_RUN: "2",
    ClaimVerdict.SUPPORTED: "32",
    ClaimVerdict.CONTRADICTED: "31",
    ClaimVerdict.UNRESOLVED: "33",
}
_LEAST_LABEL = 24  # columns; narrower labels take a line of their own


def supports_colour(stream: TextIO) -> bool:
    """Whether to colour what is written to ``stream``: a terminal, and no NO_COLOR set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def render_terminal(
    comparison: Comparison, *, width: int | None = None, colour: bool = False, full: bool = True
) -> str:
    """Return a comparison as aligned text, without pictures and sources.

    It is wrapped to ``width`` columns, by default the terminal's, or 100 if they are unknown; below
    about 60, lines may be wider. ``colour`` adds ANSI colours, see `supports_colour`. ``full``
    writes the whole document, otherwise `compact_document`.
    """
    width = width or shutil.get_terminal_size((100, 24)).columns
    parts: list[str] = []
    gap = False
    for block in document(comparison) if full else compact_document(comparison):
        match block:
            case Heading():
                parts += [*([""] if parts else []), _wrapped(block.text, width)]
                gap = False
            case Paragraph(role="list"):
                parts += [_wrapped(line, width, "  ") for line in block.lines]
                gap = True
            case Paragraph(role="caption"):
                parts += [_wrapped(line, width) for line in block.lines]
            case Paragraph() if block.role != "source":
                parts += [*([""] if gap else []), *(_wrapped(line, width) for line in block.lines)]
                gap = False
            case Cells():
                write = _sentences if block.sentences else write_cells
                parts.append(write(block, width))
                gap = True
    text = "\n".join(line.rstrip() for part in parts for line in part.split("\n")) + "\n"
    text = printable(text, kept="\n")
    return _coloured(text) if colour else text


def _wrapped(text: str, width: int, indent: str = "", hang: int = 2) -> str:
    following = " " * (len(indent) + hang)
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=following, break_long_words=False
    )


def _sentences(cells: Cells, width: int) -> str:
    """Write each line as an entry: the verdict, the first cell, below it the others."""
    text = []
    for first, *others, verdict in cells.lines:
        text.append(_wrapped(first, width, f"  {verdict:<13}", hang=0))
        text.append(_wrapped(" (".join(others) + ")" * (len(others) - 1), width, " " * 15, hang=0))
    return "\n".join(text)


def write_cells(cells: Cells, width: int) -> str:
    """Return cells as text: values to the right, labels and the last column to the left.

    Labels are wrapped, and nothing is omitted.

    Labels that would be too narrow take a line of their own. Where the values alone are too wide,
    the first of them join the label. A label without values is the title of the lines below it.
    """
    labels, *columns = (
        [*head.partition(" ")[::2], *(line[place] for line in cells.lines)]
        for place, head in enumerate(cells.heads)
    )
    titles = {2 + place for place, line in enumerate(cells.lines) if not any(line[1:])}

    def longest_label() -> int:
        return max(len(label) for line, label in enumerate(labels) if line not in titles)

    own_line = width - _total(columns) < min(longest_label(), _LEAST_LABEL)
    while own_line and 2 + _total(columns) > width and len(columns) > 2:
        first = columns.pop(0)
        name = " ".join(filter(None, first[:2]))
        labels[2:] = [
            label if value in ("", EMPTY) else f"{label}, {name} {value}"
            for label, value in zip(labels[2:], first[2:], strict=True)
        ]
    room = width if own_line else min(longest_label(), width - _total(columns))
    left = 2 if own_line else room
    text = []
    for line, label in enumerate(labels):
        if line in titles:
            text += textwrap.wrap(label, width, subsequent_indent="  ")
            continue
        wrapped = textwrap.wrap(label, room, subsequent_indent="  ")
        values = [column[line].rjust(_longest(column)) for column in columns[:-1]]
        numbers = "  ".join(["", *values, columns[-1][line]])
        if own_line:
            text += [*wrapped, "  " + numbers]
        else:
            text += ["".join(wrapped[:1]).ljust(room) + numbers, *wrapped[1:]]
        if line == 1:
            text.append("─" * min(left + _total(columns), width))
    return "\n".join(text)


def _longest(column: Sequence[str]) -> int:
    return max(map(len, column))


def _total(columns: Sequence[Sequence[str]]) -> int:
    return sum(_longest(column) + 2 for column in columns)


def _coloured(text: str) -> str:
    """Colour verdicts: at the end of a line in tables, at its start in claims."""
    for found, code in _COLOURS.items():
        colour = rf"\033[{code}m\g<0>\033[0m"
        in_table = isinstance(found, Verdict)
        place = rf"(?<=  ){found}(, firm)?$" if in_table else rf"(?<=^  ){found}(?= )"
        text = re.sub(place, colour, text, flags=re.MULTILINE)
    return re.sub(r"MISS: [^.]*\.", "\033[1;31m\\g<0>\033[0m", text)
