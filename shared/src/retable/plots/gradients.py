"""Gradient landscapes of runs: the norm of each module's gradient over training.

Zhu et al. (ICCV 2021, supplement, section C, figures 2 and 3) read from it how stable training is.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy

from retable.errors import UserError
from retable.plots.curves import Places, Values
from retable.plots.drawing import new_figure, style_axes
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

_ALL_NAMED = 12  # so many modules have room for their names
# Names of torchvision.
_NORM = re.compile(r"(^|\.)(bn|norm|gn|ln)\d*$|(downsample|shortcut)\.1$")
_CONVOLUTION = re.compile(r"(^|\.)conv\d*$|(downsample|shortcut)\.0$")
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

    ``runs`` are label -> recorded norms; the networks may differ. ``statistic`` is that of the
    steps of an epoch.

    Raises:
        UserError: there is nothing to draw, or matplotlib is missing.
    """
    kinds = [one for one in _HEIGHTS if kind in (one, "both")]
    lines = math.ceil(len(runs) / _IN_A_LINE) or 1
    per_line = math.ceil(len(runs) / lines) or 1
    heights = [_HEIGHTS[one] for one in kinds] * lines
    figure = new_figure(2.2 + 2.3 * per_line, sum(heights) + 0.3)
    field = "maximum" if statistic == "max" else statistic
    norms = [numpy.asarray(getattr(run, field)) for run in runs.values()]
    scale = _common_scale(norms)
    grid = figure.add_gridspec(len(heights), per_line, height_ratios=heights)
    panels, shown_modules = [], None
    for place, (label, landscape) in enumerate(runs.items()):
        line, column = divmod(place, per_line)
        rows = Rows.of(landscape.modules)
        epochs, shown = numpy.array(landscape.epochs), rows.lay_out(norms[place])
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
        place, units = (0, (start + end - 1) / 2), ("axes fraction", "data")
        text = axes.annotate(title, place, (left, 0), units, "offset points", fontsize=8)
        text.set(rotation=90, ha="right", va="center")


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


def _block_of(module: str) -> str:
    """Return the part of the network a module is labelled with: its stage, or the stem.

    >>> [_block_of(name) for name in ("conv1", "layer2.0.bn1", "blocks.3.conv1")]
    ['stem', 'layer2', 'blocks.3']
    """
    parts = module.split(".")
    if len(parts) == 1:
        return "stem"
    return ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]


class Rows(NamedTuple):
    """Rows of the modules: convolutions, an empty row, normalisation layers.

    Attributes:
        order: index of each row's module, None in the empty row.
        ticks: row and label of each block, or of each module if there are few.
        borders: rows before which a block ends.
        parts: first row, end and name of the convolutions and of the normalisation layers.
    """

    order: list[int | None]
    ticks: list[tuple[float, str]]
    borders: list[int]
    parts: list[tuple[int, int, str]]

    @classmethod
    def of(cls, modules: Sequence[str]) -> Rows:
        """Lay the modules out."""
        order, ticks, borders, parts = rows = cls([], [], [], [])
        names = _without_common_prefix(modules)
        norms = [i for i, name in enumerate(names) if _NORM.search(name)]
        others = [i for i, name in enumerate(names) if not _NORM.search(name)]
        convolutions = all(_CONVOLUTION.search(names[i]) for i in others)
        for members, title in (
            (others, "convolutions" if convolutions else "other modules"),
            (norms, "normalisation"),
        ):
            if not members:
                continue
            order += [None] if order else []
            first = len(order)
            for block, found in groupby(members, lambda i: _block_of(names[i])):
                own = list(found)
                ticks += [(len(order) + (len(own) - 1) / 2, block)]
                borders += [len(order)] if len(order) > first else []
                order += own
            parts += [(first, len(order), title)]
        if len(names) <= _ALL_NAMED:
            ticks[:] = [(row, names[i]) for row, i in enumerate(order) if i is not None]
        return rows

    def lay_out(self, norms: Values) -> Values:
        """Rearrange (E, M) to (R, E), the drawn rows; a norm that is not positive becomes NaN."""
        shown = numpy.full((len(self.order), len(norms)), numpy.nan)
        for row, module in enumerate(self.order):
            if module is not None:
                shown[row] = norms[:, module]
        return numpy.where(shown > 0, shown, numpy.nan)


def _without_common_prefix(modules: Sequence[str]) -> list[str]:
    """Return the names without their common first parts, such as ``encoder``.

    >>> _without_common_prefix(["encoder.conv1", "encoder.layer1.0.conv1"])
    ['conv1', 'layer1.0.conv1']
    """
    names = [name.split(".") for name in modules]
    while all(len(name) > 1 for name in names) and len({name[0] for name in names}) == 1:
        names = [name[1:] for name in names]
    return [".".join(name) for name in names]
