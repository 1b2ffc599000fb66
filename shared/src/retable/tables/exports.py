"""A comparison as a table for a thesis: LaTeX, CSV or Markdown, with chosen rows and columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

from retable.errors import UserError
from retable.tables import phrases
from retable.tables.comparison import ComparedCell, ComparedRow, Comparison
from retable.tables.reference import Collapse, ColumnSpec
from retable.tables.verdict import Verdict
from retable.text import printable

_Part = TypeVar("_Part")
Format = Literal["latex", "csv", "md"]
Content = Literal["paper", "reference", "ours", "n", "verdict"]
CONTENTS: tuple[Content, ...] = ("paper", "reference", "ours", "n", "verdict")
"""What a cell shows: the printed and the recorded number, our mean ± std, seeds, and verdict."""

_MARKS = {Verdict.MATCH: "✓", Verdict.MISS: "✗", Verdict.INCONCLUSIVE: "?", Verdict.NOT_RUN: ""}


def export(
    comparison: Comparison,
    form: Format,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    contents: Sequence[Content] = CONTENTS,
) -> str:
    """Return a comparison in another program's format.

    CSV has a line for each cell, with everything that is known of it, whatever ``contents`` are.
    LaTeX needs the package booktabs.

    Args:
        comparison: what `retable.tables.storage.load_comparison` reads.
        form: "latex", "csv" or "md".
        rows: keys or labels of rows; empty: all that have a value.
        columns: keys or labels of columns; empty: all that have a value.
        contents: parts of a cell; those that no cell has are left out.

    Raises:
        UserError: a row or column is unknown, or is named twice.
    """
    shown = [row for row in comparison.rows if any(cell.filled for cell in row.cells.values())]
    filled = [c for c in comparison.columns if any(row.cells[c.key].filled for row in shown)]
    wanted = _chosen(rows, list(comparison.rows), "rows", lambda r: (r.row.key, r.row.label))
    specs = _chosen(columns, list(comparison.columns), "columns", lambda c: (c.key, c.label))
    wanted, specs = wanted or shown, specs or filled
    if form == "csv":
        return _csv(wanted, specs)
    heads, lines = _matrix(comparison, wanted, specs, contents)
    return _latex(comparison, heads, lines) if form == "latex" else _markdown(heads, lines)


def _chosen(
    names: Sequence[str], known: list[_Part], what: str, keys: Callable[[_Part], tuple[str, str]]
) -> list[_Part]:
    """Return what is named, in the order of the names."""
    places = {name: place for place, one in enumerate(known) for name in reversed(keys(one))}
    for name in names:
        if name not in places:
            raise UserError(
                f"`--{what}` must name {what} of the table, got {name!r}. Choose from "
                f"{', '.join(keys(one)[0] for one in known)}."
            )
    found = [places[name] for name in names]
    if len(set(found)) < len(found):
        raise UserError(f"`--{what}` names one of them twice. Name each once.")
    return [known[place] for place in found]


def _matrix(
    comparison: Comparison,
    rows: Sequence[ComparedRow],
    columns: Sequence[ColumnSpec],
    contents: Sequence[Content],
) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Return the heads, a column's and a part's, and the lines, which begin with the row's label.

    A part that no cell of a column has is left out.
    """
    heads: list[tuple[str, str]] = []
    texts: list[list[str]] = []
    for column in columns:
        cells = [row.cells[column.key] for row in rows]
        for content in contents:
            found = [_text(cell, content, column.decimals) for cell in cells]
            if any(found):
                heads.append((phrases.label(column), content))
                texts.append(found)
    labels = [row.row.label for row in rows]
    return heads, [[label, *line] for label, *line in zip(labels, *texts, strict=True)]


def _text(cell: ComparedCell, content: Content, decimals: int) -> str:
    if content == "paper":
        return _stored(cell.paper, decimals)
    if content == "reference":
        return "" if cell.reference == cell.paper else _stored(cell.reference, decimals)
    if content == "ours":
        return phrases.mean_and_std(cell, decimals)
    if content == "n":
        return str(len(cell.ours) + len(cell.collapsed)) if cell.measured else ""
    return "" if cell.verdict is None else _MARKS[cell.verdict]


def _stored(value: object, decimals: int) -> str:
    return "" if value is None else phrases.stored(value, decimals)  # type: ignore[arg-type]


def _csv(rows: Sequence[ComparedRow], columns: Sequence[ColumnSpec]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["row", "row_label", "column", "column_label", "unit", "paper", "paper_std"]
    names += ["reference", "mean", "std", "n", "collapsed", "difference", "low", "high"]
    writer.writerow([*names, "tolerance", "verdict", "firm", "reason"])
    for row in rows:
        for column in columns:
            cell = row.cells[column.key]
            if not (cell.filled or cell.verdict):
                continue
            interval = cell.interval
            writer.writerow(
                [
                    *(row.row.key, row.row.label, column.key, column.label, column.unit),
                    *(_number(cell.paper), _number(cell.paper, "std"), _number(cell.reference)),
                    *(cell.mean, cell.std, len(cell.ours), len(cell.collapsed)),
                    *((interval.centre, interval.low, interval.high) if interval else ("", "", "")),
                    *(cell.tolerance, cell.verdict or "", cell.firm, cell.reason),
                ]
            )
    return text.getvalue()


def _number(value: object, part: str = "value") -> object:
    if isinstance(value, Collapse):
        return "collapse" if part == "value" else ""
    return getattr(value, part, None)


def _markdown(heads: Sequence[tuple[str, str]], lines: Iterable[Sequence[str]]) -> str:
    titles = ["", *(f"{column} {part}".strip() for column, part in heads)]
    rules = ["---", *["---:"] * len(heads)]
    written = (" | ".join(map(_without_bars, line)) for line in (titles, rules, *lines))
    return "".join(f"| {line} |\n" for line in written)


def _without_bars(text: str) -> str:
    return printable(text).replace("|", r"\|")


def _latex(
    comparison: Comparison, heads: Sequence[tuple[str, str]], lines: Sequence[Sequence[str]]
) -> str:
    groups: list[tuple[str, int]] = []
    for column, _ in heads:
        if groups and groups[-1][0] == column:
            groups[-1] = (column, groups[-1][1] + 1)
        else:
            groups.append((column, 1))
    spans = [rf"\multicolumn{{{count}}}{{c}}{{{escaped(name)}}}" for name, count in groups]
    rules, first = [], 2
    for _, count in groups:
        rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    body = [" & ".join(map(escaped, line)) + r" \\" for line in lines]
    return "\n".join(
        [
            f"% {printable(comparison.table.id)}: {printable(comparison.table.title)}",
            f"% {phrases.scale_title(comparison)}; needs \\usepackage{{booktabs}}",
            rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
            r"\toprule",
            f" & {' & '.join(spans)} \\\\",
            " ".join(rules),
            f" & {' & '.join(escaped(part) for _, part in heads)} \\\\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "−": "$-$",  # noqa: RUF001
    "–": "--",  # noqa: RUF001
    "✓": r"$\checkmark$",
    "✗": r"$\times$",
    "×": r"$\times$",  # noqa: RUF001
    "′": "$'$",  # noqa: RUF001
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escaped(text: str) -> str:
    r"""Return text that LaTeX prints as it is.

    >>> escaped("MoCHi_1 & 50 %, 1.0 ± 0.1")
    'MoCHi\\_1 \\& 50 \\%, 1.0 $\\pm$ 0.1'
    """
    greek = {"α": r"$\alpha$", "β": r"$\beta$", "τ": r"$\tau$", "λ": r"$\lambda$"}  # noqa: RUF001
    table = str.maketrans(_LATEX | greek)
    return re.sub(r"\s+", " ", printable(text)).translate(table)
