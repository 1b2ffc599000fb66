"""Pictures of a comparison, and those that a table may add: heat maps, a scatter, curves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from retable.plots.drawing import CYCLE, GREY, INK, add_legend, colour_of, new_figure, style_axes
from retable.tables.comparison import ComparedCell, ComparedRow, Comparison
from retable.tables.document import shown_columns
from retable.tables.phrases import heading, number, scale_title, stored
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
_SHAPES = "osD^vP*h"


def draw_comparison(comparison: Comparison) -> Figure:
    """Draw the reference with its tolerance and our mean with its interval, a panel per column.

    The bar around our mean is the 95 % interval of the difference, added to the reference: a match
    if it lies inside the grey band of the tolerance. Small dots are single seeds. A collapse is
    written at the left edge of its row, ours below the reference's.
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

    cells = [cell for row in comparison.rows for cell in row.cells.values()]
    handles: list[Any] = []
    if comparison.scale == "paper" or comparison.provenance is not None:
        name = "paper" if comparison.scale == "paper" else "proxy reference"
        handles.append(Line2D([], [], color=GREY, label=f"{name} ± std", **_DIAMOND))
    if any(cell.tolerance for cell in cells):
        handles.append(Patch(color=_BAND, label="tolerance"))
    for verdict, (ink, marker) in _STYLES.items():
        if any(cell.measured and cell.verdict is verdict for cell in cells):
            label = f"ours, 95 %: {verdict}" if verdict else "ours, no verdict"
            handles.append(Line2D([], [], color=ink, marker=marker, label=label))
    add_legend(figure, handles, "outside lower center")


class _Entry(NamedTuple):
    """Mean and std of a cell of a heat map; without a finite mean, the word to write instead."""

    mean: float = math.nan
    std: float | None = None
    word: str = "not run"


def draw_grid(
    comparison: Comparison,
    column: str,
    grid: Sequence[Sequence[str]],
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    row_title: str = "",
    column_title: str = "",
) -> Figure:
    """Draw one column of a table whose rows form a grid, as heat maps: reference and ours.

    ``grid`` has the keys of the table's rows, line by line; labels and titles name the lines
    (``row_...``) and the places in a line (``column_...``).
    """
    cells = {row.row.key: row.cells[column] for row in comparison.rows}
    spec = next(c for c in comparison.columns if c.key == column)
    lines = [[cells[key] for key in line] for line in grid]
    maps = {
        "paper": [[_stored(cell.paper) for cell in line] for line in lines],
        "proxy reference": [[_stored(cell.reference) for cell in line] for line in lines],
        f"ours ({comparison.scale} scale)": [[_ours(cell) for cell in line] for line in lines],
    }
    if comparison.provenance is None:
        del maps["proxy reference"]
    maps = {name: entries for name, entries in maps.items() if set().union(*entries) != {_Entry()}}
    count = max(len(maps), 1)
    width = 1.0 + 0.95 * len(column_labels)
    figure = new_figure(max(width * count, 4.0), 1.5 + 0.55 * len(row_labels))
    panels = figure.subplots(1, count, squeeze=False)[0]
    every = [abs(entry.mean) for entries in maps.values() for line in entries for entry in line]
    limit = max(filter(math.isfinite, every), default=1.0) or 1.0
    for axes, (name, entries) in zip(panels, maps.items(), strict=False):
        _draw_heat_map(axes, entries, spec, limit)
        axes.set_xticks(range(len(column_labels)), column_labels)
        axes.set_yticks(range(len(row_labels)), row_labels)
        style_axes(axes, title=name, x=column_title, y=row_title, grid=None, spines=[])
    figure.suptitle(f"{comparison.table.id}: {heading(spec)}", fontsize=10)
    return figure


def _stored(value: Value | Collapse | None) -> _Entry:
    if isinstance(value, Value):
        return _Entry(value.value, value.std)
    return _Entry(word=COLLAPSE) if value else _Entry()


def _ours(cell: ComparedCell) -> _Entry:
    if cell.mean is not None:
        return _Entry(cell.mean, cell.std, "not finite")
    return _Entry(word=COLLAPSE) if cell.collapsed else _Entry()


def _draw_heat_map(axes: Axes, lines: list[list[_Entry]], column: ColumnSpec, limit: float) -> None:
    """Colour signed values around zero, others from the least to the largest."""
    finite = [entry.mean for line in lines for entry in line if math.isfinite(entry.mean)]
    signed = column.unit == "points" or any(v < 0 for v in finite)
    low, high = (-limit, limit) if signed else (min(finite, default=0), max(finite, default=1))
    values = [[entry.mean for entry in line] for line in lines]
    axes.set_facecolor("#f4f4f4")
    axes.imshow(values, cmap="RdBu" if signed else "cividis", vmin=low, vmax=high, aspect="auto")
    for y, line in enumerate(lines):
        for x, entry in enumerate(line):
            text, size, ink = entry.word, 7, GREY
            if math.isfinite(entry.mean):
                text, size = number(entry.mean, column.decimals, signed=signed), 8
                if entry.std is not None:
                    text += f"\n± {number(entry.std, column.decimals)}"
                share = (entry.mean - low) / ((high - low) or 1.0)
                dark = abs(entry.mean) > 0.6 * limit if signed else share < 0.5
                ink = "white" if dark else INK
            axes.text(x, y, text, ha="center", va="center", fontsize=size, color=ink)


def draw_scatter(comparison: Comparison, x: str, y: str, colour: str | None = None) -> Figure:
    """Draw our mean of column ``y`` against that of ``x``, one point for each row, with stds.

    The mean of column ``colour``, for instance an accuracy, colours the points.
    """
    import numpy
    from matplotlib.cm import ScalarMappable

    columns = {column.key: column for column in comparison.columns}
    keys = [x, y] + ([colour] if colour else [])
    points = []
    for row in comparison.rows:
        means = [_ours(row.cells[key]).mean for key in keys]
        if all(map(math.isfinite, means)):
            points.append((row, means))
    figure = new_figure(5.6, 4.6)
    axes = figure.subplots()
    inks: list[Any] = [colour_of(place) for place in range(len(points))]
    if colour is not None and points:
        scale = ScalarMappable(cmap="viridis")
        inks = list(scale.to_rgba(numpy.array([means[-1] for _, means in points])))
        bar = figure.colorbar(scale, ax=axes)
        style_axes(bar.ax, y=heading(columns[colour]), grid=None, spines=[])
    handles = []
    for place, (row, means) in enumerate(points):
        style: dict[str, Any] = {"color": inks[place], "elinewidth": 1, "label": row.row.label}
        style |= {"fmt": _SHAPES[place % len(_SHAPES)], "xerr": row.cells[x].std}
        handles.append(axes.errorbar(means[0], means[1], row.cells[y].std, **style))
    axes.margins(0.1)
    title = f"{comparison.table.id}: {scale_title(comparison)}"
    style_axes(axes, title=title, x=heading(columns[x]), y=heading(columns[y]))
    add_legend(figure, handles, "outside lower center")
    return figure


def draw_curves(
    curves: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> Figure:
    """Draw one line for each name: the mean over seeds, with the range of the seeds as a band.

    ``curves`` are name -> seed -> points (x, y); each x uses the seeds that have it.
    """
    figure = new_figure(5.8, 3.8)
    axes = figure.subplots()
    for place, (name, seeds) in enumerate(curves.items()):
        by_x: dict[float, list[float]] = {}
        for points in seeds.values():
            for x, y in points:
                by_x.setdefault(x, []).append(y)
        xs = sorted(by_x)
        means = [math.fsum(by_x[x]) / len(by_x[x]) for x in xs]
        ink, dashes = colour_of(place), "-" if place < len(CYCLE) else "--"
        axes.plot(xs, means, dashes, color=ink, label=f"{name} ({len(seeds)})")
        lows, highs = [min(by_x[x]) for x in xs], [max(by_x[x]) for x in xs]
        axes.fill_between(xs, lows, highs, color=ink, alpha=0.15, linewidth=0)
    style_axes(axes, title=title, x=x_label, y=y_label)
    add_legend(figure, axes.lines, "outside lower center")
    return figure
