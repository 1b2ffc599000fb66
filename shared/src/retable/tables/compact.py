"""A comparison on one screen: one table, claims in a line each, notes once, and the summary."""

from __future__ import annotations

from retable.tables import phrases
from retable.tables.comparison import Comparison
from retable.tables.document import Block, Cells, Heading, Paragraph, shown_columns


def compact_document(comparison: Comparison) -> list[Block]:
    """Return the blocks of a comparison that a command prints at its end.

    Everything else is in `retable.tables.document.document`: tolerances, the smallest changes that
    would be noticed, how verdicts are made, and sources.
    """
    blocks: list[Block] = [
        Heading(f"{comparison.table.id}: {comparison.table.title}", 1),
        Paragraph([f"{phrases.scale_title(comparison).capitalize()}."], "scale"),
        _cells(comparison),
    ]
    tested = [one for one in comparison.claims if one.interval is not None]
    if tested:
        decimals = {column.key: column.decimals for column in comparison.columns}
        lines = [
            [
                one.claim.text,
                phrases.claim_result(one, decimals[one.claim.column]),
                str(one.verdict),
            ]
            for one in tested
        ]
        blocks += [
            Heading("Claims", 2),
            Cells(["claim", "difference [95 %]", "verdict"], lines, sentences=True),
        ]
    remarks = [*phrases.remarks(comparison), *comparison.notes]
    if comparison.unfinished:
        remarks.insert(0, f"No verdicts: {comparison.unfinished}.")
    remarks += [f"Not run: {gap}." for gap in phrases.missing_by_reason(comparison)]
    if remarks:
        blocks.append(Paragraph(remarks, "list"))
    blocks.append(Paragraph([phrases.summary(comparison)], "summary"))
    return blocks


def _cells(comparison: Comparison) -> Cells:
    """Return one table of all columns, each with a line of its own above its rows.

    Cells that were not run are left out where any were.
    """
    heads = ["", "paper", "recorded", "ours (seeds)", "difference [95 %]", "verdict"]
    lines: list[list[str]] = []
    for column in shown_columns(comparison):
        places = column.decimals
        cells = [(row.row.label, row.cells[column.key]) for row in comparison.rows]
        if comparison.seeds:
            cells = [(label, cell) for label, cell in cells if cell.measured]
        if not cells:
            continue
        lines.append([phrases.label(column), *[""] * (len(heads) - 1)])
        for label, cell in cells:
            own = None if cell.reference == cell.paper else cell.reference
            lines.append(
                [
                    f"  {label}",
                    phrases.stored(cell.paper, places) if cell.paper is not None else "",
                    phrases.stored(own, places) if own is not None else "",
                    phrases.measured(cell, places) if cell.measured else "",
                    phrases.difference(cell, places),
                    phrases.verdict(cell).removesuffix(", firm"),
                ]
            )
    kept = [
        place
        for place, _ in enumerate(heads)
        if place in (0, len(heads) - 1) or any(line[place] for line in lines)
    ]
    return Cells(
        [heads[place] for place in kept], [[line[place] for place in kept] for line in lines]
    )
