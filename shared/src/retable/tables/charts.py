"""Pictures that a table may add: a grid as heat maps, a scatter, curves over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from retable.plots.drawing import CYCLE, GREY, INK, new_figure
from retable.tables.comparison import ComparedCell, Comparison
from retable.tables.phrases import heading, number
from retable.tables.plot import scale_title
from retable.tables.reference import COLLAPSE, Collapse, ColumnSpec, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHAPES = "osD^vP*h"


class _Entry(NamedTuple):
    """What one place of a heat map says: a value and its std, or a word where there is none."""

    value: float = math.nan
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

    Args:
        comparison: the table.
        column: key of the column to draw.
        grid: row keys, as they are laid out.
        row_labels: one for each line of the grid.
        column_labels: one for each place in a line.
        row_title: what the lines vary.
        column_title: what the places vary.
    """
    cells = {row.row.key: row.cells[column] for row in comparison.rows}
    described = next(c for c in comparison.columns if c.key == column)
    lines = [[cells[key] for key in line] for line in grid]
    every = [cell for line in lines for cell in line]
    maps: dict[str, list[list[_Entry]]] = {}
    if any(cell.paper for cell in every):
        maps["paper"] = [[_stored_entry(cell.paper) for cell in line] for line in lines]
    if comparison.provenance is not None:
        maps["proxy reference"] = [[_stored_entry(c.reference) for c in line] for line in lines]
    if any(cell.ours or cell.collapsed for cell in every):
        own = [[_own_entry(cell) for cell in line] for line in lines]
        maps[f"ours ({comparison.scale} scale)"] = own
    size = (1.0 + 0.95 * len(column_labels), 1.5 + 0.55 * len(row_labels))
    figure = new_figure(max(size[0] * max(len(maps), 1), 4.0), size[1])
    axes = figure.subplots(1, max(len(maps), 1), squeeze=False)[0]
    values = [entry.value for entries in maps.values() for line in entries for entry in line]
    limit = max((abs(v) for v in values if math.isfinite(v)), default=1.0) or 1.0
    for place, (title, entries) in zip(axes, maps.items(), strict=False):
        _draw_heat_map(place, entries, described, limit)
        place.set_title(title, fontsize=9)
        place.set_xticks(range(len(column_labels)), column_labels, fontsize=8)
        place.set_yticks(range(len(row_labels)), row_labels, fontsize=8)
        place.set_xlabel(column_title, fontsize=9)
        place.set_ylabel(row_title, fontsize=9)
    figure.suptitle(f"{comparison.id}: {heading(described)}", fontsize=10)
    return figure


def _stored_entry(value: Value | Collapse | None) -> _Entry:
    if isinstance(value, Collapse):
        return _Entry(word=COLLAPSE)
    return _Entry(value.value, value.std) if value else _Entry()


def _own_entry(cell: ComparedCell) -> _Entry:
    if cell.mean is None:
        return _Entry(word=COLLAPSE) if cell.collapsed else _Entry()
    return _Entry(cell.mean, cell.std)


def _draw_heat_map(axes: Axes, lines: list[list[_Entry]], column: ColumnSpec, limit: float) -> None:
    """Colour signed values around zero and all others from their least to their largest."""
    values = [[entry.value for entry in line] for line in lines]
    finite = [v for line in values for v in line if math.isfinite(v)]
    signed = column.unit == "points" or any(v < 0 for v in finite)
    low, high = (-limit, limit) if signed else (min(finite, default=0), max(finite, default=1))
    axes.set_facecolor("#f4f4f4")
    axes.imshow(values, cmap="RdBu" if signed else "cividis", vmin=low, vmax=high, aspect="auto")
    for y, line in enumerate(lines):
        for x, (value, std, word) in enumerate(line):
            if not math.isfinite(value):
                axes.text(x, y, word, ha="center", va="center", fontsize=7, color=GREY)
                continue
            text = number(value, column.decimals, signed=signed)
            text += f"\n± {number(std, column.decimals)}" if std is not None else ""
            share = (value - low) / ((high - low) or 1.0)
            dark = abs(value) > 0.6 * limit if signed else share < 0.5
            colour = "white" if dark else INK
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


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
        means = [_own_entry(row.cells[key]).value for key in keys]
        if all(map(math.isfinite, means)):
            points.append((row, means))
    figure = new_figure(5.6, 4.6)
    axes = figure.subplots()
    scale = ScalarMappable(cmap="viridis")
    if colour is None:
        inks: list[Any] = [CYCLE[place % len(CYCLE)] for place in range(len(points))]
    else:
        inks = list(scale.to_rgba(numpy.array([means[-1] for _, means in points])))
    for place, (row, means) in enumerate(points):
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
    if colour is not None and points:
        figure.colorbar(scale, ax=axes, label=heading(columns[colour]))
    axes.margins(0.1)
    axes.set_xlabel(heading(columns[x]), fontsize=9)
    axes.set_ylabel(heading(columns[y]), fontsize=9)
    axes.grid(color="#ececec")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{comparison.id}: {scale_title(comparison)}", fontsize=10)
    if points:
        figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def draw_curves(
    curves: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> Figure:
    """Draw one line for each name: the mean over seeds, with the range of the seeds behind it.

    Args:
        curves: name -> seed -> points (x, y); seeds may stop early, each x uses those that have it.
        title: the figure's title.
        x_label: what x is.
        y_label: what y is, with its unit.
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
        ink = CYCLE[place % len(CYCLE)]
        dashes = "-" if place < len(CYCLE) else "--"
        axes.plot(xs, means, dashes, color=ink, label=f"{name} ({len(seeds)})")
        lows, highs = [min(by_x[x]) for x in xs], [max(by_x[x]) for x in xs]
        axes.fill_between(xs, lows, highs, color=ink, alpha=0.15, linewidth=0)
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.set_title(title, fontsize=10)
    axes.grid(color="#ececec")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure
