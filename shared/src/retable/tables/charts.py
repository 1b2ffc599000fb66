"""The picture of a comparison."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retable.plots.drawing import GREY, INK, add_legend, new_figure, style_axes
from retable.tables.comparison import ComparedCell, ComparedRow, Comparison
from retable.tables.document import shown_columns
from retable.tables.phrases import heading, scale_title, stored
from retable.tables.reference import COLLAPSE, Collapse, ColumnSpec, Value
from retable.tables.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES: dict[Verdict | None, tuple[str, str]] = {
    Verdict.MATCH: ("#009E73", "o"),
    Verdict.INCONCLUSIVE: ("#E69F00", "s"),
    Verdict.MISS: ("#D55E00", "X"),
    None: ("#0072B2", "o"),
}
"""Verdict -> colour, distinct for readers with any colour vision, and marker."""
_BAND = "#e3e3e3"
_DIAMOND: dict[str, Any] = {"marker": "D", "markersize": 5, "markerfacecolor": "white", "ls": ""}
_PANELS_IN_A_LINE = 3


def draw_comparison(comparison: Comparison) -> Figure:
    """Draw the reference with its tolerance and our mean with its interval, a panel per column.

    The bar around our mean is the 95 % interval of the difference, added to the reference. The grey
    band is the tolerance: a match has its mean inside, a firm one the whole bar. Small dots are
    single seeds. A collapse is written at the left edge of its row, ours below the reference's.
    """
    shown, rows = shown_columns(comparison), comparison.rows
    columns = [c for c in shown if any(r.cells[c.key].measured for r in rows)] or shown
    rows = tuple(
        row
        for row in rows
        if any(row.cells[c.key].measured or row.cells[c.key].reference for c in columns)
    )
    per_line = min(len(columns), _PANELS_IN_A_LINE)
    lines = math.ceil(len(columns) / per_line)
    figure = new_figure(2.8 + 4.2 * per_line, 1.1 + lines * (0.8 + 0.36 * len(rows)))
    grid = figure.subplots(lines, per_line, sharey=True, squeeze=False)
    for axes, column in zip(grid.flat, columns, strict=False):
        _draw_column(axes, rows, column)
    for axes in grid.flat[len(columns) :]:
        axes.set_visible(False)
    for line in grid:
        line[0].set_yticks(range(len(rows)), [row.row.label for row in rows], fontsize=9)
        line[0].set_ylim(len(rows) - 0.4, -0.6)
    _add_legend(figure, comparison)
    figure.suptitle(f"{comparison.table.id}: {scale_title(comparison)}", fontsize=10, color=INK)
    return figure


def _draw_column(axes: Axes, rows: Sequence[ComparedRow], column: ColumnSpec) -> None:
    for y, row in enumerate(rows):
        cell = row.cells[column.key]
        if isinstance(cell.reference, Collapse):
            _write(axes, y - 0.2, stored(cell.reference, column.decimals), GREY)
        value = cell.reference if isinstance(cell.reference, Value) else None
        if value is not None:
            _draw_reference(axes, y, value, cell.tolerance)
        if cell.mean is not None and math.isfinite(cell.mean):
            _draw_ours(axes, y, cell, value)
        if cell.collapsed:
            below = 0.34 if cell.ours else 0.2  # values may lie at the edge as well
            _write(axes, y + below, f"{COLLAPSE} ({len(cell.collapsed)})", _style(cell)[0])
    axes.use_sticky_edges = False  # keeps a band that is the widest mark off the frame
    axes.margins(x=0.06)
    style_axes(axes, x=textwrap.fill(heading(column), 52), grid="x", spines=["bottom"])


def _style(cell: ComparedCell) -> tuple[str, str]:
    return _STYLES.get(cell.verdict, (GREY, "o"))


def _write(axes: Axes, y: float, text: str, colour: str) -> None:
    """Write a word at the left edge of a panel, whatever its x axis shows."""
    place = axes.get_yaxis_transform()
    axes.text(0.01, y, text, color=colour, fontsize=8, va="center", transform=place, zorder=6)


def _draw_reference(axes: Axes, y: int, value: Value, tolerance: float | None) -> None:
    if tolerance is not None:
        left = value.value - tolerance
        axes.barh(y, 2 * tolerance, left=left, height=0.62, color=_BAND, zorder=1)
    axes.errorbar(
        value.value, y - 0.14, xerr=value.std, capsize=2, zorder=3, color=GREY, **_DIAMOND
    )


def _draw_ours(axes: Axes, y: int, cell: ComparedCell, value: Value | None) -> None:
    ink, marker = _style(cell)
    assert cell.mean is not None
    bar = None
    if cell.interval is not None and value is not None:
        bar = value.value + cell.interval.low, value.value + cell.interval.high, 2
    elif cell.std is not None:
        bar = cell.mean - cell.std, cell.mean + cell.std, 1
    if bar is not None:
        axes.plot(bar[:2], [y + 0.14] * 2, color=ink, linewidth=bar[2], zorder=4)
    if len(cell.ours) > 1:
        seeds = list(cell.ours.values())
        axes.plot(seeds, [y + 0.28] * len(seeds), "o", color=ink, markersize=2, alpha=0.6)
    axes.plot(cell.mean, y + 0.14, marker, color=ink, markersize=6, zorder=5)


def _add_legend(figure: Figure, comparison: Comparison) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if comparison.scale == "paper" or comparison.provenance is not None:
        name = "paper" if comparison.scale == "paper" else "proxy reference"
        handles.append(Line2D([], [], color=GREY, label=f"{name} ± std", **_DIAMOND))
    if any(cell.tolerance for cell in comparison.cells):
        handles.append(Patch(color=_BAND, label="tolerance"))
    for verdict, (ink, marker) in _STYLES.items():
        if any(cell.measured and cell.verdict is verdict for cell in comparison.cells):
            label = f"ours, 95 %: {verdict}" if verdict else "ours, no verdict"
            handles.append(Line2D([], [], color=ink, marker=marker, label=label))
    add_legend(figure, handles, "outside lower center")
