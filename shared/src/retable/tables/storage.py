"""Store a comparison in one folder: JSON that reads back to the same, Markdown, text and a plot."""

from __future__ import annotations

import json
import os
from pathlib import Path

from retable import files
from retable.errors import UserError
from retable.plots import drawing
from retable.settings import from_plain, to_plain
from retable.tables.charts import draw_comparison
from retable.tables.comparison import Comparison
from retable.tables.markdown import render_markdown
from retable.tables.phrases import summary
from retable.tables.terminal import render_terminal

COMPARISON_FILE = "table.json"


def render_json(comparison: Comparison) -> str:
    """Return the comparison as JSON: everything that the text shows, and every seed's number."""
    content = to_plain(comparison)
    for row, plain in zip(comparison.rows, content["rows"], strict=True):
        for key, cell in row.cells.items():
            plain["cells"][key] |= to_plain({"mean": cell.mean, "std": cell.std})
    content |= {"exit_status": comparison.exit_status, "summary": summary(comparison)}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse_comparison(text: str) -> Comparison:
    """Parse what `render_json` returned.

    Raises:
        ValueError: the text is no stored comparison; the message lists every problem.
    """
    content = json.loads(text)
    try:
        cells = [cell for row in content["rows"] for cell in row["cells"].values()]
        # What `render_json` adds for other readers follows from the rest.
        for part in [content, *cells]:
            for name in ("exit_status", "summary", "mean", "std"):
                part.pop(name, None)
    except (LookupError, TypeError, AttributeError):
        raise ValueError("it has no rows of cells") from None
    return from_plain(Comparison, content)


def load_comparison(path: str | os.PathLike[str]) -> Comparison:
    """Read a stored comparison.

    Raises:
        UserError: the file is missing or is not a comparison.
    """
    try:
        return parse_comparison(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a stored comparison ({error}). Run the table again to write it."
        ) from None


def save_comparison(folder: str | os.PathLike[str], comparison: Comparison) -> list[Path]:
    """Write ``table.json``, ``table.md``, ``table.txt`` and, with matplotlib, ``table.svg``.

    Each replaces an earlier one atomically. Returns their paths.
    """
    folder = Path(folder)
    contents = {
        "table.md": render_markdown(comparison),
        "table.txt": render_terminal(comparison, width=100),
        COMPARISON_FILE: render_json(comparison),
    }
    for name, text in contents.items():
        files.write_text(folder / name, text)
    written = [folder / name for name in contents]
    if drawing.available():
        written.append(folder / "table.svg")
        drawing.save(draw_comparison(comparison), written[-1])
    return written
