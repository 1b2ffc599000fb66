"""Pictures that a table may add: a grid as heat maps, a scatter, curves over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retable.plots.drawing import CYCLE, GREY, INK, add_legend, colour_of, new_figure, style_axes
from retable.tables.comparison import ComparedCell, Comparison
from retable.tables.phrases import heading, number
from retable.tables.plot import scale_title
from retable.tables.reference import COLLAPSE, Collapse, ColumnSpec, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHAPES = "osD^vP*h"
_Entry = Value | Collapse | None


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

    Args:
        comparison: the table.
        column: key of the column to draw.
        grid: row keys by line of the grid.
        row_labels: label of each line of the grid.
        column_labels: label of each place in a line.
        row_title: title of the lines.
        column_title: title of the places.
    """
    cells = {row.row.key: row.cells[column] for row in comparison.rows}
    spec = next(c for c in comparison.columns if c.key == column)
    lines = [[cells[key] for key in line] for line in grid]
    maps: dict[str, list[list[_Entry]]] = {
        "paper": [[cell.paper for cell in line] for line in lines],
        "proxy reference": [[cell.reference for cell in line] for line in lines],
        f"ours ({comparison.scale} scale)": [[_ours(cell) for cell in line] for line in lines],
    }
    if comparison.provenance is None:
        del maps["proxy reference"]
    maps = {name: entries for name, entries in maps.items() if any(map(any, entries))}
    count = max(len(maps), 1)
    width = 1.0 + 0.95 * len(column_labels)
    figure = new_figure(max(width * count, 4.0), 1.5 + 0.55 * len(row_labels))
    panels = figure.subplots(1, count, squeeze=False)[0]
    every = [_value(e) for entries in maps.values() for line in entries for e in line]
    limit = max((abs(v) for v in every if math.isfinite(v)), default=1.0) or 1.0
    for axes, (name, entries) in zip(panels, maps.items(), strict=False):
        _draw_heat_map(axes, entries, spec, limit)
        axes.set_xticks(range(len(column_labels)), column_labels)
        axes.set_yticks(range(len(row_labels)), row_labels)
        style_axes(axes, title=name, x=column_title, y=row_title, grid=None, spines=[])
    figure.suptitle(f"{comparison.id}: {heading(spec)}", fontsize=10)
    return figure


def _ours(cell: ComparedCell) -> _Entry:
    if cell.mean is None:
        return Collapse() if cell.collapsed else None
    return Value(cell.mean, cell.std)


def _value(entry: _Entry) -> float:
    return entry.value if isinstance(entry, Value) else math.nan


def _draw_heat_map(axes: Axes, lines: list[list[_Entry]], column: ColumnSpec, limit: float) -> None:
    """Colour signed values around zero, others from the least to the largest."""
    values = [[_value(entry) for entry in line] for line in lines]
    finite = [v for line in values for v in line if math.isfinite(v)]
    signed = column.unit == "points" or any(v < 0 for v in finite)
    low, high = (-limit, limit) if signed else (min(finite, default=0), max(finite, default=1))
    axes.set_facecolor("#f4f4f4")
    axes.imshow(values, cmap="RdBu" if signed else "cividis", vmin=low, vmax=high, aspect="auto")
    for y, line in enumerate(lines):
        for x, entry in enumerate(line):
            value = _value(entry)
            if isinstance(entry, Value) and math.isfinite(value):
                text, size = number(value, column.decimals, signed=signed), 8
                if entry.std is not None:
                    text += f"\n± {number(entry.std, column.decimals)}"
                share = (value - low) / ((high - low) or 1.0)
                dark = abs(value) > 0.6 * limit if signed else share < 0.5
                ink = "white" if dark else INK
            else:
                words = {Collapse: COLLAPSE, Value: "not finite"}
                text, size, ink = words.get(type(entry), "not run"), 7, GREY
            axes.text(x, y, text, ha="center", va="center", fontsize=size, color=ink)


def draw_scatter(comparison: Comparison, x: str, y: str, colour: str | None = None) -> Figure:
    """Draw our mean of column ``y`` against that of ``x``, one point for each row, with stds.

    Args:
        comparison: the table.
        x: key of the horizontal column.
        y: key of the vertical column.
        colour: key of a column that colours the points, for instance an accuracy.
    """
    import numpy
    from matplotlib.cm import ScalarMappable

    columns = {column.key: column for column in comparison.columns}
    keys = [x, y] + ([colour] if colour else [])
    points = []
    for row in comparison.rows:
        means = [_value(_ours(row.cells[key])) for key in keys]
        if all(map(math.isfinite, means)):
            points.append((row, means))
    figure = new_figure(5.6, 4.6)
    axes = figure.subplots()
    scale = ScalarMappable(cmap="viridis")
    inks: list[Any] = [colour_of(place) for place in range(len(points))]
    if colour is not None and points:
        inks = list(scale.to_rgba(numpy.array([means[-1] for _, means in points])))
        bar = figure.colorbar(scale, ax=axes)
        style_axes(bar.ax, y=heading(columns[colour]), grid=None, spines=[])
    handles = [
        axes.errorbar(
            means[0],
            means[1],
            row.cells[y].std,
            row.cells[x].std,
            fmt=_SHAPES[place % len(_SHAPES)],
            color=inks[place],
            elinewidth=1,
            label=row.row.label,
        )
        for place, (row, means) in enumerate(points)
    ]
    axes.margins(0.1)
    title = f"{comparison.id}: {scale_title(comparison)}"
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

    Args:
        curves: name -> seed -> points (x, y); each x uses the seeds that have it.
        title: title of the figure.
        x_label: label of the x axis.
        y_label: label of the y axis, with its unit.
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
