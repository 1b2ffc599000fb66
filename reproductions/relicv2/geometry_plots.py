"""Pictures of Figures 4 and 7: ratios of distances by class, and nearest neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from relicv2.evaluations import NEIGHBOURS, RATIOS
from retable.files import read_record
from retable.plots.drawing import CYCLE, INK, add_legend, new_figure, save, style_axes
from retable.reproduce import FinishedRun, FinishedRuns
from retable.reproduce.run import evaluation_owner
from retable.tables import Comparison
from retable.tables.phrases import scale_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 30


def draw_ratios(comparison: Comparison, runs: FinishedRuns, folder: Path) -> None:
    """Draw the distribution over classes of each row's first seed."""
    found = {label: content["ratio"] for label, content in _stored(comparison, runs, RATIOS)}
    if not found:
        return
    figure = new_figure(7.0, 3.6)
    axes = figure.subplots()
    values = [ratio for ratios in found.values() for ratio in ratios]
    low, width = min(values), (max(values) - min(values)) / _BINS or 1.0
    edges = [low + width * place for place in range(_BINS + 1)]
    for (label, ratios), ink in zip(found.items(), CYCLE, strict=False):
        axes.hist(ratios, edges, color=ink, label=label, histtype="step", linewidth=1.4)
        axes.axvline(sum(ratios) / len(ratios), color=ink, linewidth=0.8, linestyle=":")
    style_axes(axes, title="", x="distance between over within classes", grid="y")
    axes.set_ylabel("classes", fontsize=9)
    figure.suptitle(_title(comparison, "class concentration"), fontsize=11, color=INK)
    handles, _ = axes.get_legend_handles_labels()
    add_legend(figure, handles, "outside lower center")
    save(figure, folder / "ratios.svg")


def draw_neighbours(comparison: Comparison, runs: FinishedRuns, folder: Path) -> None:
    """Draw the neighbours of each image of each row's first seed; images are ordered by class."""
    found = dict(_stored(comparison, runs, NEIGHBOURS))
    if not found:
        return
    figure = new_figure(0.8 + 3.2 * len(found), 4.1)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (label, content) in zip(panels, found.items(), strict=True):
        _draw_neighbours(axes, label, content)
    figure.suptitle(_title(comparison, "nearest neighbours"), fontsize=11, color=INK)
    save(figure, folder / "neighbours.svg")


def _draw_neighbours(axes: Axes, label: str, content: dict[str, Any]) -> None:
    labels, positions = content["labels"], content["positions"]
    pairs = [(row, place) for row, places in enumerate(positions) for place in places]
    own = [labels[row] == labels[place] for row, place in pairs]
    for right, ink in ((True, CYCLE[0]), (False, CYCLE[1])):
        shown = [pair for pair, same in zip(pairs, own, strict=True) if same is right]
        axes.scatter([row for row, _ in shown], [place for _, place in shown], s=3, color=ink)
    ends = [place - 0.5 for place in range(1, len(labels)) if labels[place] != labels[place - 1]]
    for end in ends:
        axes.axvline(end, color=INK, linewidth=0.4)
        axes.axhline(end, color=INK, linewidth=0.4)
    style_axes(axes, title=label, x="image", grid="y")
    axes.set_ylabel("neighbour", fontsize=9)
    axes.set_xlim(-1, len(labels))
    axes.set_ylim(len(labels), -1)
    axes.set_aspect("equal")


def _stored(
    comparison: Comparison, runs: FinishedRuns, name: str
) -> list[tuple[str, dict[str, Any]]]:
    """Return label and stored content of the rows that have any, of their first seeds."""
    found = []
    for row in comparison.rows:
        by_seed = runs.get(row.row.key)
        content = _content(by_seed[min(by_seed)], name) if by_seed else None
        if content is not None:
            found.append((row.row.label, content))
    return found


def _content(run: FinishedRun, name: str) -> dict[str, Any] | None:
    for path in sorted(run.folder.glob(f"evaluations/*/{name}")):
        content: dict[str, Any] = read_record(path, evaluation_owner(path.parent))
        return content
    return None


def _title(comparison: Comparison, what: str) -> str:
    return f"{comparison.table.id}: {what}; {scale_title(comparison)}"
