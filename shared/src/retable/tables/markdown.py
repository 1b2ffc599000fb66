"""A comparison as Markdown: what the terminal shows, and where the stored numbers come from."""

from __future__ import annotations

import re
from collections.abc import Sequence

from retable.tables.comparison import Comparison
from retable.tables.phrases import (
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
from retable.tables.verdict import Verdict


def render_markdown(comparison: Comparison, *, level: int = 1) -> str:
    """Return the comparison as Markdown, its title a heading of ``level``."""
    mark = "#" * level
    parts = [f"{mark} {comparison.id}: {comparison.title}", f"*{comparison.paper}*"]
    parts.append("\n".join(scale_sentences(comparison)))
    for column in shown_columns(comparison):
        heads, lines = block(comparison, column)
        parts += [f"{mark}# {block_heading(comparison, column)}", _markdown_table(heads, lines)]
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
            claim_margin(compared, claim_decimals(comparison, compared)),
            claim_result(compared, claim_decimals(comparison, compared)),
            str(compared.verdict),
        ]
        for compared in comparison.claims
    ]
    table = [["claim", "stated", "ours: difference [95 %]", "verdict"], ["---"] * 4, *lines]
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in table)
