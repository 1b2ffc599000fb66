"""One page over all tables: what ran, at which scale, what matched. HTML in one file, and Markdown.

``python -m retable.tables.report --reproductions reproductions --results runs/tables --out runs``
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from retable import files
from retable.errors import UserError
from retable.exit_status import run_guarded
from retable.outputs import check_output_folder
from retable.tables.comparison import Comparison, Scale
from retable.tables.document import Block, Cells, Heading, Paragraph, Picture, document
from retable.tables.markdown import write_markdown
from retable.tables.page import MEDIA_TYPES, write_html
from retable.tables.storage import COMPARISON_FILE, load_comparison
from retable.tables.verdict import ClaimVerdict, Verdict


class Result(NamedTuple):
    """The comparison of a table at one scale, with the plots of its folder."""

    comparison: Comparison
    plots: list[Path]


def find_results(reproductions: Path, results: Path) -> dict[str, list[Result]]:
    """Return ``<package>-<table>`` -> results, for each ``reproductions/<package>/<table>.toml``.

    A result is ``<results>/<package>-<table>-<scale>/table.json`` with the plots of its folder.
    """
    found: dict[str, list[Result]] = {}
    for path in sorted(reproductions.glob("*/*.toml")):
        if path.name.endswith(".proxy.toml"):
            continue
        name = f"{path.parent.name}-{path.stem}"
        folders = [results / f"{name}-{scale}" for scale in get_args(Scale)]
        found[name] = [
            Result(load_comparison(folder / COMPARISON_FILE), _plots(folder))
            for folder in folders
            if (folder / COMPARISON_FILE).exists()
        ]
    return found


def _plots(folder: Path) -> list[Path]:
    """Return one file for each plot of a folder, the SVG if there is one, ``table`` first.

    A link is none: what it leads to would stand in the report.
    """
    by_stem = {
        path.stem: path
        for path in sorted(folder.iterdir())
        if path.suffix in MEDIA_TYPES and path.is_file() and not path.is_symlink()
    }  # .png sorts before .svg, which replaces it
    return [by_stem[stem] for stem in sorted(by_stem, key=lambda stem: (stem != "table", stem))]


def build_report(reproductions: Path, results: Path, out: Path) -> list[Path]:
    """Write ``report.html`` and ``report.md`` to ``out`` and return their paths.

    Raises:
        UserError: there is no table, or a stored file is damaged.
    """
    tables = find_results(reproductions, results)
    if not tables:
        raise UserError(
            f"{reproductions} has no reference file <package>/<table>.toml. Give the folder of the"
            " reproductions with --reproductions."
        )
    title = f"Reproductions, {datetime.datetime.now(datetime.UTC).date().isoformat()}"
    blocks = _report(tables, title)
    pages = {"report.html": write_html(blocks, title), "report.md": write_markdown(blocks, out)}
    for name, text in pages.items():
        files.write_text(out / name, text)
    return [out / name for name in pages]


def _report(tables: Mapping[str, Sequence[Result]], title: str) -> list[Block]:
    """Return the report: an overview, then each table at each scale that was run."""
    blocks: list[Block] = [Heading(title, 1), Paragraph([_summary(tables)]), _overview(tables)]
    for name, results in tables.items():
        for place, (comparison, plots) in enumerate(results):
            label = f"{name}, {comparison.scale} scale"
            blocks += document(
                comparison,
                title=f"{label}: {comparison.table.title}",
                level=2,
                anchor="" if place else name,
                pictures=[Picture(plot, f"{label}: plot {plot.stem}") for plot in plots],
            )
    return blocks


def _summary(tables: Mapping[str, Sequence[Result]]) -> str:
    misses = [
        f"{name} ({comparison.scale}): row '{row}', column '{column}'"
        for name, results in tables.items()
        for comparison, _ in results
        for row, column in comparison.misses()
    ]
    text = f"{sum(map(bool, tables.values()))} of {len(tables)} tables were run."
    return text + (f" Missed: {'; '.join(misses)}." if misses else " No cell missed.")


def _overview(tables: Mapping[str, Sequence[Result]]) -> Cells:
    """Return one line for each table and scale with its verdicts."""
    lines = []
    for name, results in tables.items():
        if not results:
            empty = [""] * (len(Verdict) + 2)
            lines.append([name, "never run", *empty, f"nox -s reproduce-{name}"])
        for comparison, _ in results:
            counts, claims = comparison.counts(), comparison.claim_counts()
            tested = ", ".join(f"{claims[v]} {v}" for v in ClaimVerdict if claims[v])
            state = "MISS" if comparison.misses() else comparison.unfinished and "claims nothing"
            verdicts = [str(counts[v]) for v in Verdict]
            if firm := comparison.firm_matches():
                verdicts[0] += f" ({firm} firm)"
            lines.append([name, comparison.scale, _seeds(comparison), *verdicts, tested, state])
    heads = ["table", "scale", "seeds", *map(str, Verdict), "claims", ""]
    return Cells(heads, lines, links=frozenset(name for name in tables if tables[name]))


def _seeds(comparison: Comparison) -> str:
    """Return how many seeds a table has, and which: a single number would read as a count."""
    seeds = comparison.seeds
    if not seeds:
        return "none"
    return f"{len(seeds)} ({'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the report from the command line; return a status of `retable.exit_status`."""
    return run_guarded(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(description="One page over all tables that were run.")
    parser.add_argument("--reproductions", type=Path, default=Path("reproductions"))
    parser.add_argument("--results", type=Path, default=Path("runs/tables"))
    parser.add_argument("--out", type=Path, default=Path("runs"))
    options = parser.parse_args(arguments)
    check_output_folder(options.out, "--out")
    for path in build_report(options.reproductions, options.results, options.out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
