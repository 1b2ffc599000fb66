"""One page over all tables: what ran, at which scale, what matched. HTML in one file, and Markdown.

``python -m retable.tables.report --reproductions reproductions --results runs/tables --out runs``
"""

from __future__ import annotations

import argparse
import base64
import datetime
import html
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from retable import files
from retable.errors import UserError
from retable.tables.comparison import ComparedClaim, Comparison, Scale
from retable.tables.markdown import render_markdown
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
)
from retable.tables.reading import load_reference
from retable.tables.reference import ColumnSpec, Reference
from retable.tables.storage import COMPARISON_FILE, load_comparison
from retable.tables.verdict import ClaimVerdict, Verdict

_PLOT_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class ReportedTable:
    """A table that has stored numbers, with the comparison of each scale it was run at.

    Attributes:
        name: ``<package>-<table>``, as the nox session says it.
        reference: the paper's numbers.
        results: scale -> (comparison, plots written beside it).
    """

    name: str
    reference: Reference
    results: dict[str, tuple[Comparison, list[Path]]]

    @property
    def session(self) -> str:
        """The command that runs it."""
        return f"nox -s reproduce-{self.name}"


def find_tables(reproductions: Path, results: Path) -> list[ReportedTable]:
    """Return every table under ``reproductions/<package>/<table>.toml`` with what was run of it.

    A result is ``<results>/<package>-<table>-<scale>/table.json``, and plots lie beside it.
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
    """Return one file for each plot of a folder, the SVG where there is one."""
    by_stem: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):  # .png sorts before .svg, which replaces it
        if path.suffix in _PLOT_KINDS:
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
            f"{reproductions}: no reference file <package>/<table>.toml found; give the folder that"
            " holds the reproductions with --reproductions."
        )
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    pages = {"report.html": html_page(tables, day), "report.md": markdown_page(tables, day, out)}
    for name, text in pages.items():
        files.write_text(out / name, text)
    return [out / name for name in pages]


_SUMMARY_HEADS = ("table", "scale", "seeds", *(str(v) for v in Verdict), "claims", "")


def summary_lines(tables: Sequence[ReportedTable]) -> list[list[str]]:
    """Return one line for each table and scale: what ran and what came of it."""
    lines = []
    for table in tables:
        if not table.results:
            empty = [""] * (len(_SUMMARY_HEADS) - 3)
            lines.append([table.name, "never run", *empty, table.session])
        for scale, (comparison, _) in table.results.items():
            counts, claims = comparison.counts(), comparison.claim_counts()
            verdicts = [str(counts[verdict]) for verdict in Verdict]
            said = ", ".join(f"{claims[v]} {v}" for v in ClaimVerdict if claims[v])
            state = "MISS" if comparison.misses() else comparison.unfinished and "claims nothing"
            seeds = " ".join(map(str, comparison.seeds))
            lines.append([table.name, scale, seeds, *verdicts, said, state])
    return lines


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


def markdown_page(tables: Sequence[ReportedTable], day: str, out: Path) -> str:
    """Return the report as Markdown, its plots linked relative to the folder ``out``."""
    lines = [list(_SUMMARY_HEADS), ["---"] * len(_SUMMARY_HEADS), *summary_lines(tables)]
    overview = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    parts = [f"# Reproductions, {day}", _verdict_sentence(tables), overview]
    for table in tables:
        for scale, (comparison, plots) in table.results.items():
            parts.append(render_markdown(comparison, level=2).rstrip("\n"))
            for plot in plots:
                link = Path(os.path.relpath(plot, out)).as_posix()
                parts.append(f"![{table.name}, {scale} scale: plot {plot.stem}]({link})")
    return "\n\n".join(parts) + "\n"


_STYLE = """
:root { color-scheme: light dark; --line: #d8d8d8; --soft: #6b6b6b; --match: #00724f;
  --miss: #b3400a; --inconclusive: #946200; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --soft: #a0a0a0; --match: #3ecf9b;
  --miss: #ff8a50; --inconclusive: #f0b840; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 3rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
table.texts th, table.texts td { white-space: normal; text-align: left; }
@media print { table { font-size: .7rem; } }
.scale { border-left: 4px solid var(--line); padding-left: .8rem; }
.soft { color: var(--soft); font-size: .88rem; }
.match, .supported { color: var(--match); } .miss { color: var(--miss); font-weight: 700; }
.contradicted { color: var(--miss); } .inconclusive, .unresolved { color: var(--inconclusive); }
img { max-width: 100%; background: white; border-radius: 4px; margin: .5rem 0; }
"""


def html_page(tables: Sequence[ReportedTable], day: str) -> str:
    """Return the report as one HTML file that needs no other: style and plots are inside."""
    lines = summary_lines(tables)
    known = {table.name for table in tables if table.results}
    rows = "".join(
        "<tr>" + _summary_name(line[0], line[0] in known) + "".join(map(_cell, line[1:])) + "</tr>"
        for line in lines
    )
    body = [
        f"<h1>Reproductions, {day}</h1>",
        f"<p>{_text(_verdict_sentence(tables))}</p>",
        _html_table(_SUMMARY_HEADS, rows),
    ]
    for table in tables:
        for scale, (comparison, plots) in table.results.items():
            body.append(_html_section(table, scale, comparison, plots))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Reproductions, {day}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return html.escape(text, quote=False)


def _summary_name(name: str, linked: bool) -> str:
    text = _text(name)
    return f'<td><a href="#{html.escape(name)}">{text}</a></td>' if linked else f"<td>{text}</td>"


def _cell(text: str) -> str:
    """Return a table cell, marked with the verdict that it says, if it says one."""
    words = {str(word): word.replace(" ", "-") for word in (*Verdict, *ClaimVerdict)}
    mark = "miss" if text == "MISS" else words.get(text)
    return f'<td class="{mark}">{_text(text)}</td>' if mark else f"<td>{_text(text)}</td>"


def _html_table(heads: Sequence[str], rows: str, kind: str = "numbers") -> str:
    head = "".join(f"<th>{_text(text)}</th>" for text in heads)
    return f'<div class="wide"><table class="{kind}"><tr>{head}</tr>{rows}</table></div>'


def _html_section(
    table: ReportedTable, scale: str, comparison: Comparison, plots: Sequence[Path]
) -> str:
    first = next(iter(table.results)) == scale
    anchor = f' id="{html.escape(table.name)}"' if first else ""
    parts = [
        f"<section><h2{anchor}>{_text(f'{table.name}, {scale} scale: {comparison.title}')}</h2>",
        f'<p class="soft">{_text(comparison.paper)}</p>',
        f'<p class="scale">{"<br>".join(map(_text, scale_sentences(comparison)))}</p>',
    ]
    for column in shown_columns(comparison):
        parts += [
            f"<h3>{_text(block_heading(comparison, column))}</h3>",
            _html_block(comparison, column),
        ]
        if column.key in comparison.reasons:
            reason = f"Tolerance: {comparison.reasons[column.key]}"
            parts.append(f'<p class="soft">{_text(reason)}</p>')
    if comparison.claims:
        parts += ["<h3>Claims</h3>", f'<p class="soft">{_text(claims_heading(comparison))}.</p>']
        rows = "".join(_html_claim(comparison, claim) for claim in comparison.claims)
        parts.append(_html_table(("claim", "stated", "ours", "verdict"), rows, "texts"))
    gaps = missing(comparison)
    if gaps:
        items = "".join(f"<li>{_text(gap)}</li>" for gap in gaps)
        parts.append(f"<h3>Not run</h3><ul>{items}</ul>")
    parts += [f"<p>{_text(remark)}</p>" for remark in remarks(comparison)]
    parts += [_html_plot(path) for path in plots]
    parts += [
        f'<p class="soft">{_text(text)}</p>'
        for text in (f"Source of the paper's numbers: {comparison.source}", comparison.notes)
        if text
    ]
    return "\n".join([*parts, "</section>"])


def _html_block(comparison: Comparison, column: ColumnSpec) -> str:
    heads, lines = block(comparison, column)
    return _html_table(heads, "".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in lines))


def _html_claim(comparison: Comparison, compared: ComparedClaim) -> str:
    decimals = claim_decimals(comparison, compared)
    texts = (
        compared.claim.text,
        claim_margin(compared, decimals),
        claim_result(compared, decimals),
    )
    cells = "".join(f"<td>{_text(text)}</td>" for text in texts)
    return f"<tr>{cells}{_cell(str(compared.verdict))}</tr>"


def _html_plot(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    kind, name = _PLOT_KINDS[path.suffix], html.escape(f"plot {path.stem}")
    return f'<p><img alt="{name}" src="data:{kind};base64,{data}"></p>'


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the report from the command line; return 0, or 2 on a user's mistake."""
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
