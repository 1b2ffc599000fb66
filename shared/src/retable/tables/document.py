"""A comparison as a document: blocks for the writers of terminal text, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from retable.tables import phrases
from retable.tables.comparison import Comparison
from retable.tables.reference import ColumnSpec
from retable.tables.verdict import ClaimVerdict, Verdict

MARKS = {str(word): word.replace(" ", "-") for word in (*Verdict, *ClaimVerdict)} | {
    phrases.FIRM: str(Verdict.MATCH),
    "MISS": str(Verdict.MISS),
}
"""Text of a marked cell -> name of its mark."""


@dataclass(frozen=True)
class Heading:
    """A heading; other blocks of the page may link to ``anchor``."""

    text: str
    level: int
    anchor: str = ""


@dataclass(frozen=True)
class Paragraph:
    """Sentences, each on its own line; a "caption" belongs to the block above.

    The terminal leaves out the role "source".
    """

    lines: Sequence[str]
    role: Literal["plain", "list", "subtitle", "scale", "caption", "summary", "source"] = "plain"


@dataclass(frozen=True)
class Cells:
    """A table. The first column has labels, the last verdicts, the others values or sentences.

    Attributes:
        sentences: whether the cells are sentences, which wrap.
        links: labels that are anchors of headings.
    """

    heads: Sequence[str]
    lines: Sequence[Sequence[str]]
    sentences: bool = False
    links: frozenset[str] = field(default=frozenset())


@dataclass(frozen=True)
class Picture:
    """An image file, SVG or PNG, with its alternative text."""

    path: Path
    text: str


Block = Heading | Paragraph | Cells | Picture


def document(
    comparison: Comparison,
    *,
    title: str = "",
    level: int = 1,
    anchor: str = "",
    pictures: Iterable[Picture] = (),
) -> list[Block]:
    """Return the blocks of a comparison, with the pictures after the text.

    ``title``, by default the table's id and title, ``level`` and ``anchor`` are those of the first
    heading.
    """
    blocks: list[Block] = [
        Heading(title or f"{comparison.table.id}: {comparison.table.title}", level, anchor),
        Paragraph([comparison.table.paper], "subtitle"),
        Paragraph(phrases.scale_sentences(comparison), "scale"),
    ]
    for column in shown_columns(comparison):
        printed = any(row.cells[column.key].paper for row in comparison.rows)
        unprinted = "" if printed else "; the paper prints no number"
        blocks.append(Heading(phrases.heading(column) + unprinted, level + 1))
        blocks.append(_cells(comparison, column))
        cells = [row.cells[column.key] for row in comparison.rows]
        if caption := phrases.noticed(cells, column.decimals):
            blocks.append(Paragraph([caption], "caption"))
        if reason := comparison.reasons.get(column.key):
            blocks.append(Paragraph([f"Tolerance: {reason}"], "source"))
    for heading, sentences in (
        ("These runs", comparison.notes),
        ("Decisions", comparison.table.decisions),
    ):
        if sentences:
            blocks += [Heading(heading, level + 1), Paragraph(sentences, "list")]
    if comparison.claims:
        test = "The better row minus the other, paired by seed, with its 95 % interval"
        if comparison.scale != "paper":
            test += "; only the order is tested, the margins are the paper's"
        blocks += [Heading("Claims", level + 1), Paragraph([f"{test}."]), _claims(comparison)]
    if gaps := phrases.missing(comparison):
        blocks += [Heading("Not run", level + 1), Paragraph(gaps, "list")]
    blocks += [Paragraph([remark]) for remark in phrases.remarks(comparison)]
    blocks.append(Paragraph([phrases.summary(comparison)], "summary"))
    blocks += pictures
    if comparison.table.source:
        blocks.append(
            Paragraph([f"Source of the paper's numbers: {comparison.table.source}."], "source")
        )
    if comparison.table.notes:
        blocks.append(Paragraph([f"Notes: {comparison.table.notes}"], "source"))
    return blocks


def shown_columns(comparison: Comparison) -> list[ColumnSpec]:
    """Return the columns with a value, all of them if none has one."""
    filled = [c for c in comparison.columns if any(r.cells[c.key].filled for r in comparison.rows)]
    return filled or list(comparison.columns)


def _cells(comparison: Comparison, column: ColumnSpec) -> Cells:
    """Return the table of one column, without rows and columns that are empty."""
    rows = [(row.row.label, row.cells[column.key]) for row in comparison.rows]
    rows = [(label, cell) for label, cell in rows if cell.filled or cell.verdict] or rows
    labels, cells = [label for label, _ in rows], [cell for _, cell in rows]
    decimals = column.decimals
    columns = {
        "": labels,
        "paper": [phrases.stored(cell.paper, decimals) for cell in cells],
        "proxy reference": [phrases.stored(cell.reference, decimals) for cell in cells],
        "ours (seeds)": [phrases.measured(cell, decimals) for cell in cells],
        "difference [95 %]": [phrases.difference(cell, decimals) for cell in cells],
        "tolerance": [phrases.tolerance(cell, decimals) for cell in cells],
        "verdict": [phrases.verdict(cell) for cell in cells],
    }
    if comparison.provenance is None:
        del columns["proxy reference"]
    if not any(cell.paper for cell in cells):  # the heading says so
        del columns["paper"]
    for name in ("difference [95 %]", "tolerance"):
        if not any(columns[name]):
            del columns[name]
    return Cells(list(columns), list(zip(*columns.values(), strict=True)))


def _claims(comparison: Comparison) -> Cells:
    decimals = {column.key: column.decimals for column in comparison.columns}
    lines = []
    for compared in comparison.claims:
        places = decimals[compared.claim.column]
        result = phrases.claim_result(compared, places)
        margin = phrases.claim_margin(compared, places)
        lines.append([compared.claim.text, result, margin, str(compared.verdict)])
    heads = ["claim", "ours: difference [95 %]", "stated", "verdict"]
    return Cells(heads, lines, sentences=True)
