"""Pictures of Figures 12 and 13: histograms of cosines, a panel for each training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nonsemantic_negatives.cosines import HISTOGRAMS, read_histograms
from nonsemantic_negatives.histograms import BINS, Histogram
from retable.plots.drawing import CYCLE, INK, add_legend, new_figure, save, style_axes
from retable.reproduce import FinishedRun, FinishedRuns
from retable.reproduce.run import evaluation_owner
from retable.tables import Comparison
from retable.tables.phrases import scale_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = {
    "positive": "positive",
    "standard": "another image",
    "patch": "patch-based negative",
    "texture": "texture-based negative",
}


def draw_histograms(comparison: Comparison, runs: FinishedRuns, folder: Path) -> None:
    """Draw the histograms of each row's first seed, of the query network's embeddings."""
    found = {
        row.row.label: histograms_of(by_seed[min(by_seed)])
        for row in comparison.rows
        if (by_seed := runs.get(row.row.key))
    }
    found = {label: histograms for label, histograms in found.items() if histograms}
    if not found:
        return
    width = max(8.0, 0.6 + 2.6 * min(3, len(found)))  # the title needs as much
    figure = new_figure(width, 0.9 + 1.9 * -(-len(found) // 3))
    panels = figure.subplots(-(-len(found) // 3), min(3, len(found)), squeeze=False, sharex=True)
    for axes in panels.flat[len(found) :]:
        axes.set_visible(False)
    for axes, (label, histograms) in zip(panels.flat, found.items(), strict=False):
        _draw(axes, label, histograms)
    for axes in panels[:, 0]:
        axes.set_ylabel("density", fontsize=9)
    title = f"{comparison.table.id}: cosines with the query; {scale_title(comparison)}"
    figure.suptitle(title, fontsize=11, color=INK)
    handles, _ = panels.flat[0].get_legend_handles_labels()
    add_legend(figure, handles, "outside lower center")
    save(figure, folder / "histograms.svg")


def histograms_of(run: FinishedRun) -> dict[str, Histogram]:
    """Return the histograms of a run's first evaluation by `Cosines`; none if there is none."""
    for path in sorted(run.folder.glob(f"evaluations/*/{HISTOGRAMS}")):
        return read_histograms(path.parent, evaluation_owner(path.parent))
    return {}


def _draw(axes: Axes, label: str, histograms: dict[str, Histogram]) -> None:
    edges = [-1 + 2 * edge / BINS for edge in range(BINS + 1)]
    for (kind, called), ink in zip(LINES.items(), CYCLE, strict=False):
        if kind in histograms:
            each = histograms[kind]
            axes.stairs(each.density, edges, color=ink, label=called, linewidth=1.2)
            axes.axvline(each.mean, color=ink, linewidth=0.8, linestyle=":")
    axes.set_xlim(-1, 1)
    style_axes(axes, title=label, x="cosine", grid="y")
