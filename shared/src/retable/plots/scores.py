"""Score statistics of runs over training: mean positive and negative score, negative variance.

Zhu et al. (ICCV 2021, figures 1, 3 and 4) read from Mean(pos), Mean(neg) and Var(neg), recorded at
every step, which pairs are useful.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy
from numpy.typing import NDArray

from retable.errors import UserError
from retable.plots.curves import Places, Values, running_mean, running_range, thin
from retable.plots.drawing import CYCLE, INK, add_legend, colour_of, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

STATISTICS = {
    "positive_mean": ("Mean(pos)", "mean of the positive scores"),
    "negative_mean": ("Mean(neg)", "mean of the negative scores"),
    "negative_variance": ("Var(neg)", "variance of the negative scores"),
}
"""Name in the log -> title and axis label of its panel."""

TRANSFORMED = "transformed_"
"""Prefix of the statistics of scores as used in the loss."""

Scores = Literal["both", "raw", "transformed"]
Window = tuple[float, float]

_BINS = 400  # columns of pixels in a panel
_MARKERS = ("", "o", "s", "^", "D", "v")  # for the second eight runs, the third, ...
_BAND = 0.14  # opacity


@dataclass(frozen=True)
class ScoreCurves:
    """Recorded pair scores of a run.

    Attributes:
        steps: (N,) int64, ascending, the recorded steps, counted from 1.
        values: statistic, a name of `STATISTICS` with or without the prefix `TRANSFORMED` -> (N,),
            NaN if a step lacks it.
        steps_per_epoch: None if it is unknown; then there is no axis of epochs.
        dim: D, the dimension of the unit sphere that the scores are cosines on; None if it is
            unknown or the features do not have unit length.
        start_epoch: first epoch, from 0, with transformed scores; None if they never are.
    """

    steps: Places
    values: Mapping[str, Values] = field(repr=False)
    steps_per_epoch: int | None = None
    dim: int | None = None
    start_epoch: float | None = None


@dataclass(frozen=True)
class View:
    """Axis, window, smoothing and kinds of the curves of a figure."""

    in_epochs: bool
    window: Window
    smooth: int
    scores: Scores
    alone: bool

    def x(self, run: ScoreCurves) -> Values:
        """Return the x values (N,) of a run's steps; a step is drawn where it ends."""
        return run.steps / (run.steps_per_epoch or 1 if self.in_epochs else 1)

    def part(self, run: ScoreCurves) -> NDArray[numpy.bool_]:
        """Return which steps (N,) are shown."""
        x = self.x(run)
        return (x >= self.window[0]) & (x <= self.window[1])

    def kinds(self, run: ScoreCurves, name: str) -> Iterator[tuple[str, Values]]:
        """Yield the shown kinds of a statistic, raw or transformed, with their values (N,)."""
        for kind, prefix in (("raw", ""), ("transformed", TRANSFORMED)):
            if self.scores in (kind, "both") and prefix + name in run.values:
                yield kind, run.values[prefix + name]


def draw_scores(
    runs: Mapping[str, ScoreCurves],
    *,
    smooth: int | None = None,
    epochs: Window | None = None,
    steps: Window | None = None,
    scores: Scores = "both",
) -> Figure:
    """Draw Mean(pos), Mean(neg) and Var(neg) of several runs over one another.

    Solid lines are raw scores, dashed lines of the same colour are the scores as used in the loss.
    A line is a running mean; its band reaches from the least to the largest single step of the
    window. Transformed scores have a band only if one run is drawn: their steps differ by the drawn
    weights, far more than by training. The dotted line in Var(neg) is 1/D, the variance for vectors
    uniform on the unit sphere; a triangle marks the start of a transformation. Statistics that span
    decades have a logarithmic axis.

    Args:
        runs: label -> recorded scores; steps per epoch may differ.
        smooth: steps in a running mean; None: a hundredth of the steps shown, 1: no smoothing.
        epochs: first and last epoch to draw; the first epoch goes from 0 to 1.
        steps: first and last step to draw; the axis then counts steps.
        scores: kind of scores.

    Raises:
        UserError: there is nothing to draw, ``epochs`` is given but the epochs are unknown, or
            matplotlib is missing.
    """
    curves = list(runs.values())
    in_epochs = steps is None and all(run.steps_per_epoch for run in curves)
    if epochs is not None and not in_epochs:
        raise UserError(
            "The epochs of a run are unknown, its log has no epoch lines. Use --steps instead."
        )
    window = epochs or steps or (-math.inf, math.inf)
    view = View(in_epochs, window, smooth or 1, scores, alone=len(curves) == 1)
    names = [name for name in STATISTICS if any(list(view.kinds(run, name)) for run in curves)]
    longest = max((int(view.part(run).sum()) for run in curves), default=0)
    if not names or not longest:
        raise UserError(_nothing(curves, view, names))
    if smooth is None:
        view = replace(view, smooth=max(1, longest // 100))
    figure = new_figure(1.2 + 3.3 * len(names), 4.0)
    figure.get_layout_engine().set(wspace=0.04)  # type: ignore[union-attr,call-arg]
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for place, run in enumerate(curves):
            _draw_run(axes, place, run, name, view)
        _choose_scale(axes, name)
        _draw_marks(axes, curves, name, view)
        _describe(axes, curves, name, view)
    _draw_legends(figure, runs, names, view)
    return figure


def _nothing(curves: Sequence[ScoreCurves], view: View, names: Sequence[str]) -> str:
    if names:
        unit = "epochs" if view.in_epochs else "steps"
        last = max((view.x(run)[-1] for run in curves if len(run.steps)), default=0)
        low, high = view.window
        return f"No step lies in {unit} {low:g} to {high:g}. Choose a part of 0 to {last:g}."
    if view.scores == "both":
        return f"The trace has none of {', '.join(STATISTICS)}, so there is nothing to draw."
    return f"The trace has no {view.scores} scores. Omit --scores {view.scores}."


def _marker(place: int) -> str:
    return _MARKERS[place // len(CYCLE) % len(_MARKERS)]


def _draw_run(axes: Axes, place: int, run: ScoreCurves, name: str, view: View) -> None:
    part = view.part(run)
    x = view.x(run)[part]
    if not len(x):
        return
    for kind, values in view.kinds(run, name):
        mean = running_mean(values, view.smooth)[part]
        kept = thin(mean, _BINS)
        axes.plot(
            x[kept],
            mean[kept],
            "-" if kind == "raw" else "--",
            color=colour_of(place),
            linewidth=1.2 if view.smooth > 1 or len(x) <= _BINS else 0.6,
            marker=_marker(place) or ("o" if len(kept) == 1 else ""),
            markevery=0.1,
            markersize=4,
            zorder=(4 if kind == "raw" else 3) - place / 1000,  # the first run lies on top
        )
        if view.smooth > 1 and (kind == "raw" or view.alone):
            columns = numpy.unique(numpy.linspace(0, len(x) - 1, _BINS).astype(numpy.int64))
            lows, highs = running_range(values[part], view.smooth, columns)
            axes.fill_between(
                x[columns], lows, highs, color=colour_of(place), alpha=_BAND, linewidth=0, zorder=2
            )


def _choose_scale(axes: Axes, name: str) -> None:
    """Make the axis logarithmic if large values would hide small ones."""
    lines = [numpy.asarray(line.get_ydata(), dtype=float) for line in axes.lines]
    drawn = numpy.concatenate([*lines, numpy.zeros(0)])
    drawn = drawn[numpy.isfinite(drawn)]
    if not len(drawn):
        return
    if name != "negative_variance" and abs(drawn).max() > 10:
        axes.set_yscale("symlog", linthresh=1.0, linscale=2.0)
    elif name == "negative_variance" and 0 < 30 * drawn.min() < drawn.max():
        axes.set_yscale("log")


def _draw_marks(axes: Axes, curves: Sequence[ScoreCurves], name: str, view: View) -> None:
    """Mark the start of transformations and, for the variance, the value of the uniform sphere."""
    seen: Counter[float] = Counter()
    across = axes.get_xaxis_transform()
    for place, run in enumerate(curves):
        if (x := _start(run, view)) is None:
            continue
        axes.axvline(x, color=colour_of(place), linewidth=0.8, linestyle=":", alpha=0.8, zorder=1)
        y = 0.975 - 0.05 * seen[x]
        axes.plot(x, y, "v", color=colour_of(place), markersize=5, transform=across, zorder=5)
        seen[x] += 1
    if name == "negative_variance":
        for dim in sorted({run.dim for run in curves if run.dim}):
            axes.axhline(1 / dim, color=INK, linewidth=0.9, linestyle=":", zorder=1)


def _start(run: ScoreCurves, view: View) -> float | None:
    """Return where on the axis a run's transformation starts; None if it is not shown."""
    transformed = any(TRANSFORMED + name in run.values for name in STATISTICS)
    if run.start_epoch is None or not transformed or not run.steps_per_epoch:
        return None
    first = run.start_epoch * run.steps_per_epoch + 1
    shown = run.steps[view.part(run)]
    if not len(shown) or not shown[0] <= first <= shown[-1]:
        return None
    return run.start_epoch if view.in_epochs else first


def _describe(axes: Axes, curves: Sequence[ScoreCurves], name: str, view: View) -> None:
    """Name the axes, and add steps above epochs, or epochs above steps."""
    title, meaning = STATISTICS[name]
    axes.margins(x=0.02, y=0.09)  # room for the triangles
    axes.autoscale(axis="y")
    if axes.get_yscale() == "symlog":
        meaning += "\n(logarithmic beyond ±1)"
    style_axes(axes, title=title, x="epoch" if view.in_epochs else "step", y=meaning)
    _set_ticks(axes.xaxis)
    per_epoch = {run.steps_per_epoch for run in curves}
    if len(per_epoch) > 1 or not (each := per_epoch.pop()):
        return
    factor = each if view.in_epochs else 1 / each
    functions = (lambda x: numpy.multiply(x, factor), lambda x: numpy.divide(x, factor))
    other = axes.secondary_xaxis("top", functions=functions)
    other.set_xlabel("step" if view.in_epochs else "epoch", fontsize=8)
    _set_ticks(other.xaxis)
    other.tick_params(labelsize=7)
    other.spines["top"].set_visible(False)


def _set_ticks(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter("{x:,.10g}")  # 15,000 and 2.5


def _draw_legends(
    figure: Figure, runs: Mapping[str, ScoreCurves], names: Sequence[str], view: View
) -> None:
    """Add a legend of runs below the panels, and one of lines, bands and marks above."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    curves = list(runs.values())
    lines: list[Artist] = [
        Line2D([], [], color=colour_of(i), marker=_marker(i), markersize=4, label=label)
        for i, label in enumerate(runs)
    ]
    shown = {kind for run in curves for name in names for kind, _ in view.kinds(run, name)}
    mean = "" if view.smooth == 1 else f", mean over {view.smooth:,} steps"
    signs: list[Artist] = []

    def sign(label: str, **style: Any) -> None:
        signs.append(Line2D([], [], color=INK, label=label, **style))

    if "raw" in shown:
        sign(f"raw scores{mean}")
    if "transformed" in shown:
        sign(f"as used in the loss{mean if 'raw' not in shown else ''}", linestyle="--")
    if view.smooth > 1 and ("raw" in shown or view.alone):
        only = "" if view.alone or "transformed" not in shown else " (raw)"
        label = f"range of single steps{only}"
        signs.append(Patch(color=INK, alpha=_BAND, linewidth=0, label=label))
    if any(_start(run, view) is not None for run in curves):
        sign("transformation starts", linestyle="", marker="v")
    if "negative_variance" in names and (dims := sorted({run.dim for run in curves if run.dim})):
        spheres = ", 1/".join(map(str, dims))
        sign(f"uniform on the sphere, 1/{spheres}", linestyle=":", linewidth=0.9)
    add_legend(figure, lines, "outside lower center")
    add_legend(figure, signs, "outside upper center")
