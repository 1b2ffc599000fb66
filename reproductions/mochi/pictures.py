"""Pictures of MoCHi's figures: curves over epochs, a grid of gains, a scatter of two columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from retable.plots.drawing import CYCLE, GREY, INK, add_legend, colour_of, new_figure, style_axes
from retable.tables import Comparison
from retable.tables.comparison import ComparedCell
from retable.tables.phrases import heading, number, scale_title
from retable.tables.reference import COLLAPSE, Collapse, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vP*h"


def draw_curves(
    curves: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]], *, title: str, y_label: str
) -> Figure:
    """Draw one line for each name: the mean over seeds, with the range of the seeds as a band.

    ``curves`` are name -> seed -> points (epoch, y); each epoch uses the seeds that have it.
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
    style_axes(axes, title=title, x="epoch", y=y_label)
    add_legend(figure, axes.lines, "outside lower center")
    return figure


def draw_scatter(comparison: Comparison, x: str, y: str, colour: str) -> Figure:
    """Draw our mean of column ``y`` against that of ``x``, one point for each row, with stds.

    The mean of column ``colour`` colours the points.
    """
    import numpy
    from matplotlib.cm import ScalarMappable

    columns = {column.key: column for column in comparison.columns}
    points = []
    for row in comparison.rows:
        means = [_ours(row.cells[key]).mean for key in (x, y, colour)]
        if all(map(math.isfinite, means)):
            points.append((row, means))
    figure = new_figure(5.6, 4.6)
    axes = figure.subplots()
    if points:
        scale = ScalarMappable(cmap="viridis")
        inks = scale.to_rgba(numpy.array([means[-1] for _, means in points]))
        bar = figure.colorbar(scale, ax=axes)
        style_axes(bar.ax, y=heading(columns[colour]), grid=None, spines=[])
    handles = []
    for place, (row, means) in enumerate(points):
        style: dict[str, Any] = {"color": inks[place], "elinewidth": 1, "label": row.row.label}
        style |= {"fmt": _MARKERS[place % len(_MARKERS)], "xerr": row.cells[x].std}
        handles.append(axes.errorbar(means[0], means[1], row.cells[y].std, **style))
    axes.margins(0.1)
    title = f"{comparison.table.id}: {scale_title(comparison)}"
    style_axes(axes, title=title, x=heading(columns[x]), y=heading(columns[y]))
    add_legend(figure, handles, "outside lower center")
    return figure


class _Entry(NamedTuple):
    """Mean and std of a cell of a heat map; without a finite mean, the word to write instead."""

    mean: float = math.nan
    std: float | None = None
    word: str = "not run"


def _stored(value: Value | Collapse | None) -> _Entry:
    if isinstance(value, Value):
        return _Entry(value.value, value.std)
    return _Entry(word=COLLAPSE) if value else _Entry()


def _ours(cell: ComparedCell) -> _Entry:
    if cell.mean is not None:
        return _Entry(cell.mean, cell.std, "not finite")
    return _Entry(word=COLLAPSE) if cell.collapsed else _Entry()


def draw_gains(
    comparison: Comparison,
    column: str,
    grid: Sequence[Sequence[str]],
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
) -> Figure:
    """Draw a column of gains over s and s' as heat maps around zero: reference and ours.

    ``grid`` has the keys of the table's rows: a line for each s, a place in it for each s'.
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
        _draw_heat_map(axes, entries, spec.decimals, limit)
        axes.set_xticks(range(len(column_labels)), column_labels)
        axes.set_yticks(range(len(row_labels)), row_labels)
        style_axes(axes, title=name, x="s'", y="s", grid=None, spines=[])
    figure.suptitle(f"{comparison.table.id}: {heading(spec)}", fontsize=10)
    return figure


def _draw_heat_map(axes: Axes, lines: list[list[_Entry]], decimals: int, limit: float) -> None:
    """Colour the values from ``-limit`` to ``limit`` and write each into its place."""
    values = [[entry.mean for entry in line] for line in lines]
    axes.set_facecolor("#f4f4f4")
    axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for y, line in enumerate(lines):
        for x, entry in enumerate(line):
            text, size, ink = entry.word, 7, GREY
            if math.isfinite(entry.mean):
                text, size = number(entry.mean, decimals, signed=True), 8
                if entry.std is not None:
                    text += f"\n± {number(entry.std, decimals)}"
                ink = "white" if abs(entry.mean) > 0.6 * limit else INK
            axes.text(x, y, text, ha="center", va="center", fontsize=size, color=ink)
