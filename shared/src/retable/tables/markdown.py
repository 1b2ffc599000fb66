"""Documents as Markdown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from retable.tables.comparison import Comparison
from retable.tables.document import Block, Cells, Heading, Paragraph, Picture, document
from retable.tables.verdict import Verdict
from retable.text import printable


def render_markdown(comparison: Comparison) -> str:
    """Return a comparison as Markdown."""
    return write_markdown(document(comparison))


def write_markdown(blocks: Iterable[Block], folder: Path = Path()) -> str:
    """Return blocks as Markdown, with pictures linked relative to ``folder``."""
    return "\n\n".join(_block(block, folder) for block in blocks) + "\n"


def _block(block: Block, folder: Path) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {_escaped(block.text)}"
        case Paragraph(role="list"):
            items = (re.sub(r"^(?=[+-])", r"\\", _escaped(line)) for line in block.lines)
            return "\n".join(f"- {item}" for item in items)
        case Paragraph():
            mark = {"subtitle": "*", "summary": "**"}.get(block.role, "")
            return mark + "\n".join(map(_escaped, block.lines)) + mark
        case Picture():
            link = quote(Path(os.path.relpath(block.path, folder)).as_posix())
            return f"![{_escaped(block.text)}]({link})"
        case Cells():
            between = "---" if block.sentences else "---:"
            rules = ["---", *[between] * (len(block.heads) - 2), "---"]
            lines = [map(_escaped, block.heads), rules, *(map(_cell, line) for line in block.lines)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return f"**{text}**" if text == Verdict.MISS else _escaped(text)


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    line = printable(" ".join(text.splitlines()))
    return re.sub(r"^(?=#)", r"\\", re.sub(r"([\\`|*_<>\[\]~$&])", r"\\\1", line))
