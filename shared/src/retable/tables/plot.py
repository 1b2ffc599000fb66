"""The picture of a comparison: ours beside the reference, with intervals and tolerances."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retable.plots.drawing import GREY, INK, new_figure, save
from retable.tables.comparison import ComparedCell, ComparedRow, Comparison
from retable.tables.document import shown_columns
from retable.tables.phrases import heading, stored
from retable.tables.reference import COLLAPSE, Collapse, ColumnSpec, Value
from retable.tables.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart by readers with any colour vision, and in grey by their markers.
_COLOURS = {
    Verdict.MATCH: "#009E73",
    Verdict.MISS: "#D55E00",
    Verdict.INCONCLUSIVE: "#E69F00",
    None: "#0072B2",
}
_MARKERS = {Verdict.MATCH: "o", Verdict.MISS: "X", Verdict.INCONCLUSIVE: "s", None: "o"}
_PANELS_IN_A_LINE = 3


def _judged_value(comparison: Comparison, cell: ComparedCell) -> Value | Collapse | None:
    """Return what is stored to draw: what ours is compared with, on the same scale."""
    if cell.reference is not None:
        return cell.reference
    return cell.paper if comparison.scale == "paper" else None


def draw_comparison(comparison: Comparison) -> Figure:
    """Draw, for each column, every row's reference with tolerance and our mean with its interval.

    The bar around our mean is the 95 % interval of the difference, set at the reference: a match
    where it lies inside the grey tolerance band. Small dots are single seeds. A collapse is written
    where its row begins, ours below the reference's.
    """
    shown = shown_columns(comparison)
    measured = [c for c in shown if any(_measured(row.cells[c.key]) for row in comparison.rows)]
    columns = measured or shown
    rows = [
        row for row in comparison.rows if any(_drawn(comparison, row, column) for column in columns)
    ]
    per_line = min(len(columns), _PANELS_IN_A_LINE)
    lines = math.ceil(len(columns) / per_line)
    size = 2.8 + 4.2 * per_line, 1.1 + lines * (0.8 + 0.36 * len(rows))
    figure = new_figure(*size)
    grid = figure.subplots(lines, per_line, sharey=True, squeeze=False)
    panels = [axes for line in grid for axes in line]
    for axes, column in zip(panels, columns, strict=False):
        _draw_column(axes, comparison, rows, column)
    for axes in panels[len(columns) :]:
        axes.set_visible(False)
    for line in grid:
        line[0].set_yticks(range(len(rows)), [row.row.label for row in rows], fontsize=9)
        line[0].set_ylim(len(rows) - 0.4, -0.6)
    _legend(figure, comparison)
    figure.suptitle(f"{comparison.id}: {scale_title(comparison)}", fontsize=10, color=INK)
    return figure


def plot_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draw a comparison with `draw_comparison` and write it to ``path``, SVG or PNG."""
    save(draw_comparison(comparison), path)


def scale_title(comparison: Comparison) -> str:
    """Say the scale, and what follows from it, in a few words."""
    if comparison.scale == "paper":
        return "paper scale"
    return f"{comparison.scale} scale, absolute numbers are not the paper's"


def _measured(cell: ComparedCell) -> bool:
    return bool(cell.ours or cell.collapsed)


def _drawn(comparison: Comparison, row: ComparedRow, column: ColumnSpec) -> bool:
    cell = row.cells[column.key]
    return _measured(cell) or _judged_value(comparison, cell) is not None


def _draw_column(
    axes: Axes, comparison: Comparison, rows: Sequence[ComparedRow], column: ColumnSpec
) -> None:
    for y, row in enumerate(rows):
        cell = row.cells[column.key]
        stated = _judged_value(comparison, cell)
        value = stated if isinstance(stated, Value) else None
        if isinstance(stated, Collapse):
            _write(axes, y - 0.2, stored(stated, column.decimals), GREY)
        if value is not None:
            _draw_reference(axes, y, value, cell.tolerance)
        if cell.mean is not None and math.isfinite(cell.mean):
            _draw_ours(axes, y, cell, value)
        if cell.collapsed:
            said = f"{COLLAPSE} ({len(cell.collapsed)})"
            below = 0.34 if cell.ours else 0.2  # where numbers lie at the edge as well
            _write(axes, y + below, said, _COLOURS.get(cell.verdict, GREY))
    axes.use_sticky_edges = False  # else a band that is the widest mark touches the frame
    axes.margins(x=0.06)
    axes.set_xlabel(textwrap.fill(heading(column), 52), fontsize=9)
    axes.tick_params(labelsize=8, length=2)
    axes.grid(axis="x", color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _write(axes: Axes, y: float, text: str, colour: str) -> None:
    """Write a word at the left edge of a panel, whatever numbers its axis shows."""
    place = axes.get_yaxis_transform()
    axes.text(0.01, y, text, color=colour, fontsize=8, va="center", transform=place, zorder=6)


def _draw_reference(axes: Axes, y: int, value: Value, tolerance: float | None) -> None:
    if tolerance is not None:
        left = value.value - tolerance
        axes.barh(y, 2 * tolerance, left=left, height=0.62, color="#e3e3e3", zorder=1)
    axes.errorbar(
        value.value,
        y - 0.14,
        xerr=value.std,
        fmt="D",
        markersize=5,
        markerfacecolor="white",
        color=GREY,
        capsize=2,
        zorder=3,
    )


def _draw_ours(axes: Axes, y: int, cell: ComparedCell, value: Value | None) -> None:
    colour = _COLOURS.get(cell.verdict, GREY)
    assert cell.mean is not None
    if cell.interval is not None and value is not None:
        ends = [value.value + cell.interval.low, value.value + cell.interval.high]
        axes.plot(ends, [y + 0.14] * 2, color=colour, linewidth=2, zorder=4)
    elif cell.std is not None:
        ends = [cell.mean - cell.std, cell.mean + cell.std]
        axes.plot(ends, [y + 0.14] * 2, color=colour, linewidth=1, zorder=4)
    if len(cell.ours) > 1:
        seeds = list(cell.ours.values())
        axes.plot(seeds, [y + 0.28] * len(seeds), "o", color=colour, markersize=2, alpha=0.6)
    marker = _MARKERS.get(cell.verdict, "o")
    axes.plot(cell.mean, y + 0.14, marker, color=colour, markersize=6, zorder=5)


def _legend(figure: Figure, comparison: Comparison) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    name = "paper ± std" if comparison.scale == "paper" else "proxy reference ± std"
    seen = comparison.counts()
    handles: list[Any] = []
    if comparison.scale == "paper" or comparison.provenance is not None:
        handles += [
            Line2D(
                [], [], color=GREY, label=name, marker="D", markerfacecolor="white", linestyle=""
            )
        ]
    if any(cell.tolerance for row in comparison.rows for cell in row.cells.values()):
        handles += [Patch(color="#e3e3e3", label="tolerance")]
    for verdict in (Verdict.MATCH, Verdict.INCONCLUSIVE, Verdict.MISS):
        if seen[verdict]:
            ink, marker, label = _COLOURS[verdict], _MARKERS[verdict], f"ours, 95 %: {verdict}"
            handles += [Line2D([], [], color=ink, marker=marker, label=label)]
    cells = [cell for row in comparison.rows for cell in row.cells.values()]
    if any(_measured(cell) and cell.verdict is None for cell in cells):
        handles += [Line2D([], [], color=_COLOURS[None], marker="o", label="ours, not judged")]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
