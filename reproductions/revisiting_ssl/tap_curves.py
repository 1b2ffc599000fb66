"""Plot of Table 1: accuracy against depth, with and without skip connections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retable.plots.drawing import CYCLE, GREY, INK, add_legend, new_figure, save, style_axes
from retable.reproduce import FinishedRuns
from retable.tables import Comparison
from retable.tables.comparison import ComparedRow
from retable.tables.phrases import number, scale_title
from retable.tables.reference import Value
from revisiting_ssl.analysis.depth import skip_gains

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TAPS = ("block1", "block2", "block3", "block4", "prelogits")
"""The table's columns in order of depth."""

_NETWORKS = {"skip": CYCLE[0], "no_skip": CYCLE[1]}
_CALLED = {"skip": "with skip connections", "no_skip": "without skip connections"}
_PRINTED: dict[str, Any] = {
    "linestyle": "--",
    "marker": "D",
    "markersize": 4,
    "markerfacecolor": "white",
}


def draw_taps(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Draw a panel for each task, a line for each network, and the gains by skip connections."""
    rows = {row.row.key: row for row in comparison.rows if _has_numbers(row)}
    tasks = list(dict.fromkeys(task_of(key) for key in rows))
    if not tasks:
        return
    figure = new_figure(0.8 + 3.4 * len(tasks), 4.6)
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        networks = {name: rows[f"{task}_{name}"] for name in _NETWORKS if f"{task}_{name}" in rows}
        for name, row in networks.items():
            _draw_row(axes, row, _NETWORKS[name])
        _write_gains(axes, comparison, networks)
        axes.set_xlim(-0.4, len(TAPS) - 0.6)
        style_axes(axes, title=task.capitalize(), grid="y")
        axes.tick_params(axis="x", labelsize=7.5)
    panels[0].set_ylabel("accuracy of the linear model (%)", fontsize=9)
    _add_networks(figure, comparison)
    count = len(comparison.seeds)
    seeds = f" ({count} seed{'' if count == 1 else 's'})" if count else ""
    title = f"{comparison.table.id}: accuracy by depth{seeds}; {scale_title(comparison)}"
    figure.suptitle(title, fontsize=11, color=INK)
    save(figure, folder / "taps.svg")


def task_of(key: str) -> str:
    """Return the task of a row.

    >>> task_of("rotation_no_skip"), task_of("rotation_skip")
    ('rotation', 'rotation')
    """
    return key.removesuffix("_skip").removesuffix("_no")


def _has_numbers(row: ComparedRow) -> bool:
    return any(row.cells[tap].ours or isinstance(row.cells[tap].paper, Value) for tap in TAPS)


def _printed(row: ComparedRow) -> dict[str, float]:
    values = {tap: row.cells[tap].paper for tap in TAPS}
    return {tap: value.value for tap, value in values.items() if isinstance(value, Value)}


def _draw_row(axes: Axes, row: ComparedRow, ink: str) -> None:
    """Draw our means as a line with a point for each seed, the paper's numbers dashed."""
    means = [row.cells[tap].mean for tap in TAPS]
    ours = [math.nan if mean is None else mean for mean in means]
    axes.plot(range(len(TAPS)), ours, color=ink, linewidth=1.8)
    for place, tap in enumerate(TAPS):
        seeds = list(row.cells[tap].ours.values())
        axes.plot([place] * len(seeds), seeds, "o", color=ink, markersize=4, alpha=0.7)
    printed = [_printed(row).get(tap, math.nan) for tap in TAPS]
    axes.plot(range(len(TAPS)), printed, color=ink, linewidth=1.0, alpha=0.8, **_PRINTED)


def _write_gains(axes: Axes, comparison: Comparison, networks: Mapping[str, ComparedRow]) -> None:
    """Label the layers, with the gain by skip connections below each."""
    labels = {column.key: column.label for column in comparison.columns}
    lines = [[labels[tap] for tap in TAPS]]
    if len(networks) == len(_NETWORKS):
        ours = [{tap: networks[name].cells[tap].ours for tap in TAPS} for name in _NETWORKS]
        paper = [
            {tap: {0: value} for tap, value in _printed(networks[name]).items()}
            for name in _NETWORKS
        ]
        for who, (skip, without) in (("ours", ours), ("paper", paper)):
            if found := skip_gains(skip, without):
                texts = [number(found[t], 1, signed=True) if t in found else "" for t in TAPS]
                lines.append([f"{who} {text}" if text else "" for text in texts])
        axes.set_xlabel("layer, and how much higher with skip connections", fontsize=8)
    axes.set_xticks(range(len(TAPS)), ["\n".join(line) for line in zip(*lines, strict=True)])


def _add_networks(figure: Figure, comparison: Comparison) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=ink, linewidth=1.8, label=_CALLED[name])
        for name, ink in _NETWORKS.items()
    ]
    if comparison.seeds:
        handles.append(
            Line2D([], [], color=GREY, linewidth=1.8, marker="o", markersize=4, label="ours")
        )
    if any(_printed(row) for row in comparison.rows):
        label = "paper, ImageNet; which layer its four columns are is uncertain"
        handles.append(Line2D([], [], color=GREY, label=label, **_PRINTED))
    add_legend(figure, handles, "outside lower center")
