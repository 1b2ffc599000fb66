"""``retable table``: write a compared table for a thesis or another program."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from retable.errors import UserError
from retable.text import printable

SCALES = ("paper", "proxy", "smoke")
PARTS = ("paper", "reference", "ours", "n", "verdict")
"""Those of `retable.tables.exports.CONTENTS`, which takes seconds to import."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    add = parser.add_argument
    what = "the name of a table that has been run, such as mochi-table1, or its table.json"
    add("table", metavar="NAME", help=what)
    forms = "latex: a booktabs tabular; csv: a line for each cell; md; default: %(default)s"
    add("--format", choices=("latex", "csv", "md"), default="md", help=forms)
    add("--scale", choices=SCALES, help="default: the largest that has been run")
    add("--runs", type=Path, default=Path("runs"), help="folder of the runs; default: %(default)s")
    add("--rows", nargs="+", metavar="ROW", default=[], help="keys or labels; default: all")
    add("--columns", nargs="+", metavar="COLUMN", default=[], help="keys or labels; default: all")
    parts = f"parts of a cell, of {', '.join(PARTS)}; default: all; csv always has all"
    add("--show", nargs="+", choices=PARTS, metavar="PART", default=PARTS, help=parts)
    add("--out", type=Path, metavar="FILE", help="default: standard output")


def run(options: argparse.Namespace) -> int:
    """Print or write a table in another format."""
    from retable import files
    from retable.outputs import check_output_file
    from retable.tables.exports import export
    from retable.tables.storage import load_comparison

    if options.out is not None:
        check_output_file(options.out, "--out")
    path = find(options.table, options.runs, options.scale)
    text = export(
        load_comparison(path),
        options.format,
        rows=options.rows,
        columns=options.columns,
        contents=options.show,
    )
    if options.out is None:
        sys.stdout.write(text)
    else:
        files.write_text(options.out, text)
        print(printable(f"{options.out}: {path.parent.name}"))
    return 0


def find(name: str, runs: Path, scale: str | None) -> Path:
    """Return the file of a compared table.

    Raises:
        UserError: no such table has been run.
    """
    if name.endswith(".json"):
        return Path(name)
    for each in SCALES if scale is None else (scale,):
        path = runs / "tables" / f"{name}-{each}" / "table.json"
        if path.exists():
            return path
    known = sorted(file.parent.name for file in runs.glob("tables/*/table.json"))
    has = ", ".join(known) or "none"
    size = "" if scale is None else f" at {scale} scale"
    raise UserError(
        f"`NAME` must be a table that has been run{size}, got {name!r}. Run nox -s "
        f"reproduce-{name}, or name one of those in {runs} ({has})."
    )
