"""Keep a comparison: JSON that reads back to the same, Markdown, text and a plot in one folder."""

from __future__ import annotations

import json
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from retable import files
from retable.errors import UserError
from retable.plots import drawing
from retable.tables import plot
from retable.tables.comparison import ComparedCell, Comparison
from retable.tables.markdown import render_markdown
from retable.tables.phrases import summary
from retable.tables.reference import COLLAPSE, Collapse
from retable.tables.terminal import render_terminal

COMPARISON_FILE = "table.json"


def encode(value: object) -> Any:
    """Turn dataclasses into JSON values; a number that is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        encoded = {f.name: encode(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, ComparedCell):  # for readers of the file, not read back
            encoded |= {"mean": encode(value.mean), "std": encode(value.std)}
        if isinstance(value, Collapse):
            encoded |= {"outcome": COLLAPSE}
        return encoded
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def decode(kind: Any, value: Any) -> Any:
    """Turn JSON values back into ``kind``, a dataclass or the type of one of its fields."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return decode(next(a for a in arguments if _fits(a, value)), value)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        return kind(**{f.name: decode(hints[f.name], value[f.name]) for f in fields(kind)})
    if origin is tuple:
        return tuple(decode(arguments[0], item) for item in value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {arguments[0](k): decode(arguments[1], item) for k, item in value.items()}
    if kind is float:
        return math.nan if value is None else float(value)
    return kind(value) if isinstance(kind, type) and issubclass(kind, StrEnum) else value


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value that is there can be of this kind, one of a union's."""
    if is_dataclass(kind) and isinstance(kind, type):
        return isinstance(value, dict) and {f.name for f in fields(kind)} <= value.keys()
    return kind is not type(None)


def render_json(comparison: Comparison) -> str:
    """Return the comparison as JSON: everything that the text shows, and every seed's number."""
    content = encode(comparison)
    content |= {"exit_status": comparison.exit_status, "summary": summary(comparison)}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse_comparison(text: str) -> Comparison:
    """Read what `render_json` wrote."""
    return typing.cast(Comparison, decode(Comparison, json.loads(text)))


def load_comparison(path: str | os.PathLike[str]) -> Comparison:
    """Read a stored comparison.

    Raises:
        UserError: if the file is missing or is not a comparison.
    """
    try:
        return parse_comparison(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a stored comparison ({type(error).__name__}: {error}); run the table"
            " again to write it."
        ) from None


def save_comparison(folder: str | os.PathLike[str], comparison: Comparison) -> list[Path]:
    """Write ``table.json``, ``table.md``, ``table.txt`` and, with matplotlib, ``table.svg``.

    Returns the files written. Each replaces an earlier one atomically.
    """
    folder = Path(folder)
    contents = {
        "table.md": render_markdown(comparison),
        "table.txt": render_terminal(comparison, width=100),
        COMPARISON_FILE: render_json(comparison),
    }
    written = []
    for name, text in contents.items():
        files.write_text(folder / name, text)
        written.append(folder / name)
    if drawing.available():
        plot.plot_comparison(comparison, folder / "table.svg")
        written.append(folder / "table.svg")
    return written
