"""Shared parts of all pictures: figures, the style of axes, colours, legends, atomic files.

matplotlib is an extra (``retable[plots]``) and is imported inside the functions. Figures are made
without pyplot: no global state, no window.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from retable import extras, files
from retable.errors import UserError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import Container
    from matplotlib.figure import Figure

INK, GREY = "#222222", "#8a8a8a"

CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Colours of Okabe and Ito (2008), distinct for readers with any colour vision."""

Place = Literal["outside lower center", "outside upper center"]

_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
"""Drops the time and version that matplotlib writes, so that equal figures are equal files."""


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def require() -> None:
    """Raise a `UserError` where matplotlib is not installed."""
    extras.require("matplotlib", "plots", "Drawing")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, or raise a `UserError` without matplotlib."""
    require()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def colour_of(place: int) -> str:
    """Return the colour of the line at this place, from `CYCLE`, which repeats."""
    return CYCLE[place % len(CYCLE)]


def style_axes(
    axes: Axes,
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    grid: Literal["both", "x", "y"] | None = "both",
    spines: Sequence[str] = ("left", "bottom"),
) -> None:
    """Give axes the common style: sizes of text, a light grid below the data, few spines.

    An empty title or label is not set; only sides in ``spines`` have a line and tick marks.
    """
    if title:
        axes.set_title(title, fontsize=10)
    if x:
        axes.set_xlabel(x, fontsize=9)
    if y:
        axes.set_ylabel(y, fontsize=9)
    axes.set_axisbelow(True)
    if grid is not None:
        axes.grid(axis=grid, color="#ececec")
    for side in ("left", "bottom", "top", "right"):
        axes.spines[side].set_visible(side in spines)
    axes.tick_params(axis="x", labelsize=8, length=3 if "bottom" in spines else 0)
    axes.tick_params(axis="y", labelsize=8, length=3 if "left" in spines else 0)


def kind_of(path: str | Path) -> str:
    """Return "png", "svg" or "pdf", by the ending of a file's name; another is a `UserError`."""
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in _METADATA:
        raise UserError(f"The name of a picture must end with .png, .svg or .pdf, got {path}.")
    return kind


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically in the format of `kind_of`; equal figures give equal bytes."""
    from matplotlib import rc_context

    kind = kind_of(path)
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "retable"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=_METADATA[kind])
    files.write_bytes(path, buffer.getvalue())


def add_legend(figure: Figure, handles: Sequence[Artist | Container], place: Place) -> None:
    """Add a legend outside the panels of a figure, in as few lines as its width allows."""
    if not handles:
        return
    labels = [str(handle.get_label()) for handle in handles]
    columns = _columns(labels, figure.get_figwidth())
    figure.legend(handles=handles, loc=place, ncols=columns, fontsize=8, frameon=False)


def _columns(labels: Sequence[str], width: float) -> int:
    """Return how many columns of entries in 8 points fit into a width in inches.

    >>> _columns(["MoCo", "MoCo, momentum=0.5", "MoCo, momentum=0.6"], 6.0)
    3
    """
    for columns in range(len(labels), 1, -1):
        lines = math.ceil(len(labels) / columns)
        longest = [max(map(len, labels[i : i + lines])) for i in range(0, len(labels), lines)]
        if sum(0.062 * length + 0.65 for length in longest) <= width:
            return math.ceil(len(labels) / lines)  # as few as fill the lines
    return 1
