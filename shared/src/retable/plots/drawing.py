"""What all pictures share: matplotlib without global state, colours, and a file that is whole.

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
    from matplotlib.figure import Figure

INK, GREY = "#222222", "#8a8a8a"

CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito (2008): told apart by readers with any colour vision."""

Place = Literal["outside lower center", "outside upper center"]

_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
"""What matplotlib would write of the moment: equal figures shall be equal files."""


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def require() -> None:
    """Raise a `UserError` with the remedy where matplotlib is not installed."""
    extras.require("matplotlib", "plots", "Drawing")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, or raise a `UserError` without matplotlib."""
    require()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def kind_of(path: str | Path) -> str:
    """Return "png", "svg" or "pdf", by the ending of a file's name.

    Raises:
        UserError: it ends with nothing of these.
    """
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in _METADATA:
        raise UserError(
            f"{path} is no name of a picture: expected it to end with .png, .svg or .pdf."
        )
    return kind


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically, by the ending of ``path``; equal figures give equal bytes.

    Raises:
        UserError: ``path`` ends with nothing of these.
    """
    from matplotlib import rc_context

    kind = kind_of(path)
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "retable"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=_METADATA[kind])
    files.write_bytes(path, buffer.getvalue())


def add_legend(figure: Figure, handles: Sequence[Artist], place: Place) -> None:
    """Put a legend beside the panels of a figure, in as few lines as its width allows."""
    labels = [str(handle.get_label()) for handle in handles]
    figure.legend(
        handles=handles,
        loc=place,
        ncols=_columns(labels, figure.get_figwidth()),
        fontsize=8,
        frameon=False,
    )


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
