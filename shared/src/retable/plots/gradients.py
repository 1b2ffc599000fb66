"""Gradient landscapes of runs: the norm of each module's gradient over training.

Zhu et al. (ICCV 2021, supplement, section C, figures 2 and 3) read from it how stable training is.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy

from retable.errors import UserError
from retable.plots.curves import Places, Values
from retable.plots.drawing import new_figure, style_axes
from retable.plots.modules import Rows
from retable.train.gradients import Landscape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

Statistic = Literal["mean", "std", "max"]
STATISTICS: Mapping[Statistic, str] = {
    "mean": "mean over an epoch's steps",
    "std": "standard deviation over an epoch's steps",
    "max": "maximum over an epoch's steps",
}

Kind = Literal["heat", "surface", "both"]

_COLOURS = "viridis"  # even in lightness, so readable with any colour vision and in grey
_NOTHING = "#d9d9d9"  # values without a logarithm
_IN_A_LINE = 5
_SURFACE_EPOCHS = 120  # more cannot be distinguished, and each is many polygons
_HEIGHTS = {"heat": 3.1, "surface": 2.7}  # inches


def draw_gradients(
    runs: Mapping[str, Landscape], *, kind: Kind = "both", statistic: Statistic = "mean"
) -> Figure:
    """Draw modules by epochs, coloured by the norm of the gradient, all runs on one scale.

    Convolutions are above normalisation layers, both in the order of the network; the scale is
    logarithmic. Norms of zero, which have no logarithm, and epochs without a record are grey.

    Args:
        runs: label -> recorded norms; the networks may differ.
        kind: "heat" map, "surface" in three dimensions, or "both".
        statistic: statistic of the steps of an epoch.

    Raises:
        UserError: if there is nothing to draw, or matplotlib is missing.
    """
    kinds = [one for one in _HEIGHTS if kind in (one, "both")]
    lines = math.ceil(len(runs) / _IN_A_LINE) or 1
    per_line = math.ceil(len(runs) / lines) or 1
    heights = [_HEIGHTS[one] for one in kinds] * lines
    figure = new_figure(2.2 + 2.3 * per_line, sum(heights) + 0.3)
    norms = {label: _norms(landscape, statistic) for label, landscape in runs.items()}
    scale = _common_scale(list(norms.values()))
    grid = figure.add_gridspec(len(heights), per_line, height_ratios=heights)
    panels, shown_modules = [], None
    for place, (label, landscape) in enumerate(runs.items()):
        line, column = divmod(place, per_line)
        rows = Rows.of(landscape.modules)
        epochs, shown = numpy.array(landscape.epochs), rows.lay_out(norms[label])
        named = column == 0 or landscape.modules != shown_modules
        shown_modules = landscape.modules
        for number, one in enumerate(kinds):
            spot = grid[line * len(kinds) + number, column]
            axes = figure.add_subplot(spot, projection="3d" if one == "surface" else None)
            if one == "heat":
                _draw_heat(axes, epochs, shown, rows, scale)
                _name_rows(axes, rows, named)
            else:
                _draw_surface(axes, epochs, shown, rows, scale)
            if number == 0:
                axes.set_title(textwrap.fill(label, 32), fontsize=9)
            panels.append(axes)
    _add_colour_bar(figure, panels, scale, statistic)
    return figure


def _norms(landscape: Landscape, statistic: Statistic) -> Values:
    chosen = {"mean": landscape.mean, "std": landscape.std, "max": landscape.maximum}
    return numpy.asarray(chosen[statistic], dtype=numpy.float64)


def _common_scale(norms: Sequence[Values]) -> LogNorm:
    """Return the scale from the least to the largest positive norm of all runs."""
    from matplotlib.colors import LogNorm

    every = numpy.concatenate([*(one.ravel() for one in norms), numpy.zeros(0)])
    every = every[numpy.isfinite(every) & (every > 0)]
    if not len(every):
        raise UserError(
            "No run has an epoch with gradients above zero, so there is nothing to draw."
        )
    low, high = float(every.min()), float(every.max())
    return LogNorm(low, high if high > low else 10 * low)


def _ticks(scale: LogNorm) -> list[float]:
    """Return at least three ticks of a scale: powers of ten, else rounder before less round."""
    low, high = scale.vmin or 1.0, scale.vmax or 1.0
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5), range(1, 10)):
        ticks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks
    return [float(tick) for tick in numpy.geomspace(low, high, 3)]


def _add_colour_bar(
    figure: Figure, panels: Sequence[Axes], scale: LogNorm, statistic: Statistic
) -> None:
    from matplotlib.cm import ScalarMappable

    colours = ScalarMappable(scale, _COLOURS)
    bar = figure.colorbar(colours, ax=panels, shrink=0.8, aspect=30, pad=0.02)
    ticks = _ticks(scale)
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks], minor=False)
    bar.minorticks_off()
    label = f"l2 norm of the gradient,\n{STATISTICS[statistic]}"
    style_axes(bar.ax, y=label, grid=None, spines=[])


def _draw_heat(axes: Axes, epochs: Places, shown: Values, rows: Rows, scale: LogNorm) -> None:
    from matplotlib.ticker import MaxNLocator

    first, last = int(epochs[0]), int(epochs[-1])
    columns = numpy.full((len(shown), last - first + 1), numpy.nan)
    columns[:, epochs - first] = shown
    axes.set_facecolor(_NOTHING)
    axes.imshow(
        columns,
        norm=scale,
        cmap=_COLOURS,
        aspect="auto",
        interpolation="none",
        extent=(first - 0.5, last + 0.5, len(shown) - 0.5, -0.5),
    )
    for start, _, _ in rows.parts[1:]:
        axes.axhspan(start - 1.5, start - 0.5, color="white", zorder=2)
    for border in rows.borders:
        axes.axhline(border - 0.5, color="white", linewidth=0.6, zorder=2)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    style_axes(axes, x="epoch", grid=None, spines=[])


def _name_rows(axes: Axes, rows: Rows, named: bool) -> None:
    """Label the rows of a heat map, unless the map to its left has the same labels."""
    if not named:
        axes.set_yticks([])
        return
    labels = [label for _, label in rows.ticks]
    axes.set_yticks([row for row, _ in rows.ticks], labels, fontsize=7)
    left = -(12 + 4.0 * max(map(len, labels)))  # points; beyond the labels
    for start, end, title in rows.parts:
        axes.annotate(
            title,
            (0, (start + end - 1) / 2),
            (left, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="center",
            fontsize=8,
        )


def _draw_surface(axes: Any, epochs: Places, shown: Values, rows: Rows, scale: LogNorm) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    middles, shown = _coarsened(epochs, shown)
    for start, end, _ in rows.parts:
        x, y, norms = _as_grid(middles, numpy.arange(start, end), shown[start:end])
        axes.plot_surface(
            x,
            y,
            numpy.log10(norms),
            facecolors=colormaps[_COLOURS](scale(norms)),
            rstride=1,
            cstride=1,
            linewidth=0,
            antialiased=False,
            shade=False,
            rasterized=True,  # thousands of polygons
        )
    axes.view_init(elev=32, azim=-62)
    axes.set_box_aspect((1.4, 1.2, 0.8), zoom=1.05)
    axes.set_zlim(math.log10(scale.vmin or 1), math.log10(scale.vmax or 1))
    axes.invert_yaxis()  # the order of the heat map, and the smaller norms before the larger
    titles = {"convolutions": "conv", "normalisation": "norm", "other modules": "other"}
    axes.set_yticks(
        [(start + end - 1) / 2 for start, end, _ in rows.parts],
        [titles[title] for _, _, title in rows.parts],
    )
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ticks = _ticks(scale)
    axes.set_zticks([math.log10(tick) for tick in ticks], [f"{tick:.3g}" for tick in ticks])
    axes.set_xlabel("epoch", fontsize=8, labelpad=-4)
    axes.tick_params(labelsize=7, pad=-2)


def _coarsened(epochs: Places, shown: Values) -> tuple[Values, Values]:
    """Join neighbouring epochs of (R, E) where there are too many, keeping the largest norm."""
    if len(epochs) <= _SURFACE_EPOCHS:
        return epochs.astype(float), shown
    groups = numpy.array_split(numpy.arange(len(epochs)), _SURFACE_EPOCHS)
    # Not nanmax, which warns of a group without any number.
    largest = [numpy.fmax.reduce(shown[:, group], axis=1) for group in groups]
    return numpy.array([epochs[group].mean() for group in groups]), numpy.stack(largest, axis=1)


def _as_grid(epochs: Values, rows: Places, norms: Values) -> tuple[Values, Values, Values]:
    """Return the grid of a surface; a single epoch or module becomes a strip."""
    places, strip = rows.astype(float), numpy.array([-0.5, 0.5])
    if len(epochs) == 1:
        epochs, norms = epochs + strip, norms.repeat(2, axis=1)
    if len(places) == 1:
        places, norms = places + strip, norms.repeat(2, axis=0)
    return (*numpy.meshgrid(epochs, places), norms)
