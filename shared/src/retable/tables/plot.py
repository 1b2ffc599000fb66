"""Pictures of a comparison: ours beside the reference, a grid as heat maps, a scatter, curves.

matplotlib is an extra (``retable[plots]``) and is imported inside the functions. Figures are made
without pyplot: no global state, no window.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retable import files
from retable.errors import UserError
from retable.tables.comparison import ComparedCell, ComparedRow, Comparison
from retable.tables.reference import Column, Value
from retable.tables.render import heading, number, shown_columns
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
_SHAPES = "osD^vP*h"
_CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_INK, _GREY = "#222222", "#8a8a8a"

_Entry = tuple[float, float | None]
"""What one place of a heat map says: a value, NaN where there is none, and its std."""


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def _figure(width: float, height: float) -> Figure:
    if not available():
        raise UserError(
            "Plots need matplotlib: install the extra with pip install 'retable[plots]'."
        )
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as SVG or PNG, by the ending of ``path``, atomically; equal in, equal out."""
    from matplotlib import rc_context

    path = Path(path)
    kind = path.suffix.removeprefix(".")
    metadata: dict[str, Any] = {"svg": {"Date": None}, "png": {"Software": None}}.get(kind, {})
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "retable"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    files.write_bytes(path, buffer.getvalue())


def _judged_value(comparison: Comparison, cell: ComparedCell) -> Value | None:
    """Return the stored number to draw: the one ours is compared with, on the same scale."""
    if cell.reference is not None:
        return cell.reference
    return cell.paper if comparison.scale == "paper" else None


def draw_comparison(comparison: Comparison) -> Figure:
    """Draw, for each column, every row's reference with tolerance and our mean with its interval.

    The bar around our mean is the 95 % interval of the difference, set at the reference: a match
    where it lies inside the grey tolerance band. Small dots are single seeds.
    """
    shown = shown_columns(comparison)
    measured = [c for c in shown if any(row.cells[c.key].ours for row in comparison.rows)]
    columns = measured or shown
    rows = [
        row for row in comparison.rows if any(_drawn(comparison, row, column) for column in columns)
    ]
    figure = _figure(2.8 + 4.2 * len(columns), 1.9 + 0.36 * len(rows))
    grid = figure.subplots(1, len(columns), sharey=True, squeeze=False)
    for axes, column in zip(grid[0], columns, strict=True):
        _draw_column(axes, comparison, rows, column)
    grid[0, 0].set_yticks(range(len(rows)), [row.row.label for row in rows], fontsize=9)
    grid[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    _legend(figure, comparison)
    figure.suptitle(f"{comparison.id}: {_scale_title(comparison)}", fontsize=10, color=_INK)
    return figure


def plot_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draw a comparison with `draw_comparison` and write it to ``path``, SVG or PNG."""
    save(draw_comparison(comparison), path)


def _scale_title(comparison: Comparison) -> str:
    if comparison.scale == "paper":
        return "paper scale"
    return f"{comparison.scale} scale, absolute numbers are not the paper's"


def _drawn(comparison: Comparison, row: ComparedRow, column: Column) -> bool:
    cell = row.cells[column.key]
    return bool(cell.ours) or _judged_value(comparison, cell) is not None


def _draw_column(
    axes: Axes, comparison: Comparison, rows: Sequence[ComparedRow], column: Column
) -> None:
    for y, row in enumerate(rows):
        cell = row.cells[column.key]
        value = _judged_value(comparison, cell)
        if value is not None:
            _draw_reference(axes, y, value, cell.tolerance)
        if cell.mean is not None and math.isfinite(cell.mean):
            _draw_ours(axes, y, cell, value)
    axes.use_sticky_edges = False  # else a band that is the widest mark touches the frame
    axes.margins(x=0.06)
    axes.set_xlabel(heading(column), fontsize=9)
    axes.tick_params(labelsize=8, length=2)
    axes.grid(axis="x", color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


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
        color=_GREY,
        capsize=2,
        zorder=3,
    )


def _draw_ours(axes: Axes, y: int, cell: ComparedCell, value: Value | None) -> None:
    colour = _COLOURS.get(cell.verdict, _GREY)
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
                [], [], color=_GREY, label=name, marker="D", markerfacecolor="white", linestyle=""
            )
        ]
    if any(cell.tolerance for row in comparison.rows for cell in row.cells.values()):
        handles += [Patch(color="#e3e3e3", label="tolerance")]
    for verdict in (Verdict.MATCH, Verdict.INCONCLUSIVE, Verdict.MISS):
        if seen[verdict]:
            ink, marker, label = _COLOURS[verdict], _MARKERS[verdict], f"ours, 95 %: {verdict}"
            handles += [Line2D([], [], color=ink, marker=marker, label=label)]
    cells = [cell for row in comparison.rows for cell in row.cells.values()]
    if any(cell.ours and cell.verdict is None for cell in cells):
        handles += [Line2D([], [], color=_COLOURS[None], marker="o", label="ours, not judged")]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)


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
    if any(cell.ours for cell in every):
        own = [[_own_entry(cell) for cell in line] for line in lines]
        maps[f"ours ({comparison.scale} scale)"] = own
    size = (1.0 + 0.95 * len(column_labels), 1.5 + 0.55 * len(row_labels))
    figure = _figure(max(size[0] * max(len(maps), 1), 4.0), size[1])
    axes = figure.subplots(1, max(len(maps), 1), squeeze=False)[0]
    values = [v for entries in maps.values() for line in entries for v, _ in line]
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


def _stored_entry(value: Value | None) -> _Entry:
    return (value.value, value.std) if value else (math.nan, None)


def _own_entry(cell: ComparedCell) -> _Entry:
    return (cell.mean, cell.std) if cell.mean is not None else (math.nan, None)


def _draw_heat_map(axes: Axes, lines: list[list[_Entry]], column: Column, limit: float) -> None:
    """Colour signed values around zero and all others from their least to their largest."""
    values = [[value for value, _ in line] for line in lines]
    finite = [v for line in values for v in line if math.isfinite(v)]
    signed = column.unit == "points" or any(v < 0 for v in finite)
    low, high = (-limit, limit) if signed else (min(finite, default=0), max(finite, default=1))
    axes.set_facecolor("#f4f4f4")
    axes.imshow(values, cmap="RdBu" if signed else "cividis", vmin=low, vmax=high, aspect="auto")
    for y, line in enumerate(lines):
        for x, (value, std) in enumerate(line):
            if not math.isfinite(value):
                axes.text(x, y, "not run", ha="center", va="center", fontsize=7, color=_GREY)
                continue
            text = number(value, column.decimals, signed=signed)
            text += f"\n± {number(std, column.decimals)}" if std is not None else ""
            share = (value - low) / ((high - low) or 1.0)
            dark = abs(value) > 0.6 * limit if signed else share < 0.5
            colour = "white" if dark else _INK
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
        means = [_own_entry(row.cells[key])[0] for key in keys]
        if all(map(math.isfinite, means)):
            points.append((row, means))
    figure = _figure(5.6, 4.6)
    axes = figure.subplots()
    scale = ScalarMappable(cmap="viridis")
    if colour is None:
        inks: list[Any] = [_CYCLE[place % len(_CYCLE)] for place in range(len(points))]
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
    axes.set_title(f"{comparison.id}: {_scale_title(comparison)}", fontsize=10)
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
    figure = _figure(5.8, 3.8)
    axes = figure.subplots()
    for place, (name, seeds) in enumerate(curves.items()):
        by_x: dict[float, list[float]] = {}
        for points in seeds.values():
            for x, y in points:
                by_x.setdefault(x, []).append(y)
        xs = sorted(by_x)
        means = [math.fsum(by_x[x]) / len(by_x[x]) for x in xs]
        ink = _CYCLE[place % len(_CYCLE)]
        dashes = "-" if place < len(_CYCLE) else "--"
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
