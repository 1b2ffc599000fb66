"""Figure of the factor probes: factors by layer, geometry, changed images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retable.plots.drawing import CYCLE, GREY, INK, add_legend, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FACTORS = {"outline": 32, "texture": 8, "foreground": 3, "background": 12}
"""Factor that is probed -> number of its equally likely classes."""

SHOWN = ("clean", "sketch", "silhouette", "texture_swapped", "recoloured", "corrupted")
"""Variants of the test images that the figure shows; `corrupted` is the mean over corruptions."""

_TITLES = {
    "outline": "outline",
    "texture": "texture of the object",
    "foreground": "hue of the object",
    "background": "background",
    "effective_rank": "effective rank",
    "mean_cosine": "mean cosine",
}

_STYLES: tuple[dict[str, Any], ...] = (
    *({"color": ink, "linestyle": "-", "marker": "o"} for ink in CYCLE[:4]),
    {"color": GREY, "linestyle": "--", "marker": "s"},
    {"color": GREY, "linestyle": "-.", "marker": "^"},
    {"color": INK, "linestyle": ":", "marker": ""},
)
"""Styles of the four tasks, in colours, then of their baselines, in grey and black."""

Layers = Mapping[str, Mapping[str, float]]
"""Layer -> factor or measure -> value; accuracies in percent."""


def draw_factors(
    layers: Mapping[str, Sequence[Layers]],
    changed: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    title: str,
) -> Figure:
    """Draw a panel for each factor and measure, a line for each encoder, the mean over seeds.

    Args:
        layers: encoder -> of each seed, layer -> factor or measure -> value; accuracies in percent.
            An encoder with a single layer is drawn as a horizontal line.
        changed: encoder -> of each seed, variant -> accuracy of the outline's probe.
        title: name of the encoders.
    """
    figure = new_figure(13.0, 6.8)
    places = figure.add_gridspec(2, 4)
    cells = [places[place // 4, place % 4] for place in range(len(_TITLES))]
    grid = {name: figure.add_subplot(cell) for name, cell in zip(_TITLES, cells, strict=True)}
    taps = max((list(seeds[0]) for seeds in layers.values()), key=len)
    styles = dict(zip(layers, _STYLES, strict=False))
    for name, called in _TITLES.items():
        for encoder, seeds in layers.items():
            _draw_line(grid[name], seeds, name, taps, styles[encoder])
        if name in FACTORS:
            grid[name].axhline(100 / FACTORS[name], color="#c0c0c0", linewidth=1.0)
            grid[name].set_ylim(0, 102)
            grid[name].set_ylabel("accuracy (%)", fontsize=8)
        grid[name].set_title(called, fontsize=10)
        grid[name].set_xticks(range(len(taps)), [tap.replace("_", "\n") for tap in taps])
        _finish(grid[name])
    _draw_changed(figure.add_subplot(places[1, 2:]), changed, styles)
    _add_encoders(figure, styles)
    count = len(next(iter(layers.values())))
    figure.suptitle(f"{title}, {count} seed{'' if count == 1 else 's'}", fontsize=11, color=INK)
    return figure


def mean_over(seeds: Sequence[Mapping[str, float]], name: str) -> float:
    """Return the mean of one value over seeds.

    >>> mean_over([{"clean": 70.0}, {"clean": 72.0}], "clean")
    71.0
    """
    return math.fsum(seed[name] for seed in seeds) / len(seeds)


def _draw_line(
    axes: Axes, seeds: Sequence[Layers], name: str, taps: Sequence[str], style: dict[str, Any]
) -> None:
    """Draw one encoder's values by layer, or a horizontal line for a single layer."""
    if len(seeds[0]) == 1:
        (only,) = seeds[0]
        level = mean_over([one[only] for one in seeds], name)
        axes.axhline(level, color=style["color"], linestyle=style["linestyle"], linewidth=1.2)
        return
    values = [mean_over([one[tap] for one in seeds], name) for tap in taps]
    axes.plot(range(len(taps)), values, markersize=4, linewidth=1.5, **style)
    if len(seeds) > 1:
        lows, highs = (
            [pick(one[tap][name] for one in seeds) for tap in taps] for pick in (min, max)
        )
        axes.fill_between(
            range(len(taps)), lows, highs, color=style["color"], alpha=0.12, linewidth=0
        )


def _draw_changed(
    axes: Axes, changed: Mapping[str, Sequence[Mapping[str, float]]], styles: Mapping[str, Any]
) -> None:
    """Draw the accuracy of the outline's probe on each variant, encoders side by side."""
    for place, (encoder, seeds) in enumerate(changed.items()):
        across = [x + 0.09 * (place - (len(changed) - 1) / 2) for x in range(len(SHOWN))]
        values = [mean_over(seeds, name) for name in SHOWN]
        marker = styles[encoder]["marker"] or "_"
        axes.plot(across, values, marker, color=styles[encoder]["color"], markersize=6)
        for x, name in zip(across, SHOWN, strict=True):
            every = [seed[name] for seed in seeds]
            axes.plot([x, x], [min(every), max(every)], color=styles[encoder]["color"], linewidth=1)
    axes.axhline(100 / FACTORS["outline"], color="#c0c0c0", linewidth=1.0)
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(SHOWN)), [name.replace("_", "\n") for name in SHOWN])
    axes.set_ylabel("accuracy (%)", fontsize=8)
    axes.set_title("outline on changed images, probe of the last layer", fontsize=10)
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.tick_params(labelsize=7.5)
    axes.grid(axis="y", color="#ececec")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _add_encoders(figure: Figure, styles: Mapping[str, dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], markersize=4, label=encoder, **style) for encoder, style in styles.items()
    ]
    handles.append(Line2D([], [], color="#c0c0c0", linewidth=1.0, label="chance"))
    add_legend(figure, handles, "outside lower center")
