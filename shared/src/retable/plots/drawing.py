"""What all pictures share: matplotlib without global state, colours, and a file that is whole.

matplotlib is an extra (``retable[plots]``) and is imported inside the functions. Figures are made
without pyplot: no global state, no window.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retable import files
from retable.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, GREY = "#222222", "#8a8a8a"

CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito (2008): told apart by readers with any colour vision."""

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
    """Raise a `UserError` that names the extra where matplotlib is not installed."""
    if not available():
        raise UserError(
            "Plots need matplotlib: install the extra with pip install 'retable[plots]'."
        )


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
            f"{path} is no name of a picture: expected it to end with .png, .svg, .pdf."
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
