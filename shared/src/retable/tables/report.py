"""One page over all tables: what ran, at which scale, what matched. HTML in one file, and Markdown.

``python -m retable.tables.report --reproductions reproductions --results runs/tables --out runs``
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from retable import files
from retable.errors import UserError
from retable.tables.comparison import Comparison, Scale
from retable.tables.document import Block, Cells, Heading, Paragraph, Picture, document
from retable.tables.markdown import write_markdown
from retable.tables.page import MEDIA_TYPES, write_html
from retable.tables.reading import load_reference
from retable.tables.reference import Reference
from retable.tables.storage import COMPARISON_FILE, load_comparison
from retable.tables.verdict import ClaimVerdict, Verdict


@dataclass(frozen=True)
class ReportedTable:
    """A table with its comparison at each scale that was run.

    Attributes:
        name: ``<package>-<table>``, as in the name of the nox session.
        reference: the paper's values.
        results: scale -> (comparison, plots of its folder).
    """

    name: str
    reference: Reference
    results: dict[str, tuple[Comparison, list[Path]]]

    @property
    def session(self) -> str:
        """The command that runs it."""
        return f"nox -s reproduce-{self.name}"


def find_tables(reproductions: Path, results: Path) -> list[ReportedTable]:
    """Return every table under ``reproductions/<package>/<table>.toml`` with its results.

    A result is ``<results>/<package>-<table>-<scale>/table.json`` with the plots of its folder.
    """
    tables = []
    for path in sorted(reproductions.glob("*/*.toml")):
        if path.name.endswith(".proxy.toml"):
            continue
        name = f"{path.parent.name}-{path.stem}"
        found = {}
        for scale in get_args(Scale):
            folder = results / f"{name}-{scale}"
            if (folder / COMPARISON_FILE).exists():
                found[scale] = load_comparison(folder / COMPARISON_FILE), _plots(folder)
        tables.append(ReportedTable(name, load_reference(path), found))
    return tables


def _plots(folder: Path) -> list[Path]:
    """Return one file for each plot of a folder, the SVG if there is one, ``table`` first."""
    by_stem: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):  # .png sorts before .svg, which replaces it
        if path.suffix in MEDIA_TYPES:
            by_stem[path.stem] = path
    return [by_stem[stem] for stem in sorted(by_stem, key=lambda stem: (stem != "table", stem))]


def build_report(reproductions: Path, results: Path, out: Path) -> list[Path]:
    """Write ``report.html`` and ``report.md`` to ``out`` and return their paths.

    Raises:
        UserError: if there is no table, or a stored file is damaged.
    """
    tables = find_tables(reproductions, results)
    if not tables:
        raise UserError(
            f"{reproductions} has no reference file <package>/<table>.toml. Give the folder of the"
            " reproductions with --reproductions."
        )
    title = f"Reproductions, {datetime.datetime.now(datetime.UTC).date().isoformat()}"
    blocks = report_blocks(tables, title)
    pages = {"report.html": write_html(blocks, title), "report.md": write_markdown(blocks, out)}
    for name, text in pages.items():
        files.write_text(out / name, text)
    return [out / name for name in pages]


def report_blocks(tables: Sequence[ReportedTable], title: str) -> list[Block]:
    """Return the report as blocks: an overview, then each table at each scale that was run."""
    links = frozenset(table.name for table in tables if table.results)
    blocks: list[Block] = [Heading(title, 1), Paragraph([_verdict_sentence(tables)])]
    blocks.append(_overview(tables, links))
    for table in tables:
        anchor = table.name
        for scale, (comparison, plots) in table.results.items():
            blocks += document(
                comparison,
                title=f"{table.name}, {scale} scale: {comparison.title}",
                level=2,
                anchor=anchor,
                pictures=[
                    Picture(plot, f"{table.name}, {scale} scale: plot {plot.stem}")
                    for plot in plots
                ],
            )
            anchor = ""  # the first section of a table is linked
    return blocks


def _overview(tables: Sequence[ReportedTable], links: frozenset[str]) -> Cells:
    """Return one line for each table and scale with its verdicts."""
    heads = ["table", "scale", "seeds", *map(str, Verdict), "claims", ""]
    lines = []
    for table in tables:
        if not table.results:
            empty = [""] * (len(heads) - 3)
            lines.append([table.name, "never run", *empty, table.session])
        for scale, (comparison, _) in table.results.items():
            counts, claims = comparison.counts(), comparison.claim_counts()
            verdicts = [str(counts[verdict]) for verdict in Verdict]
            tested = ", ".join(f"{claims[v]} {v}" for v in ClaimVerdict if claims[v])
            state = "MISS" if comparison.misses() else comparison.unfinished and "claims nothing"
            seeds = " ".join(map(str, comparison.seeds))
            lines.append([table.name, scale, seeds, *verdicts, tested, state])
    return Cells(heads, lines, links=links)


def _verdict_sentence(tables: Sequence[ReportedTable]) -> str:
    run = [table for table in tables if table.results]
    misses = [
        f"{table.name} ({scale}): row '{row}', column '{column}'"
        for table in run
        for scale, (comparison, _) in table.results.items()
        for row, column in comparison.misses()
    ]
    text = f"{len(run)} of {len(tables)} tables were run."
    return text + (f" Missed: {'; '.join(misses)}." if misses else " No cell missed.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the report from the command line; return 0, or 2 after a user error."""
    parser = argparse.ArgumentParser(description="One page over all tables that were run.")
    parser.add_argument("--reproductions", type=Path, default=Path("reproductions"))
    parser.add_argument("--results", type=Path, default=Path("runs/tables"))
    parser.add_argument("--out", type=Path, default=Path("runs"))
    options = parser.parse_args(arguments)
    try:
        written = build_report(options.reproductions, options.results, options.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
