"""Stored values, comparisons, verdicts and their rendering."""

from retable.tables.comparing import compare
from retable.tables.comparison import Collapsed, Comparison, Measured
from retable.tables.markdown import render_markdown
from retable.tables.reading import load_reference
from retable.tables.recording import record_reference, write_reference
from retable.tables.reference import Provenance, Reference
from retable.tables.storage import load_comparison, render_json, save_comparison
from retable.tables.terminal import render_terminal, supports_colour

__all__ = [
    "Collapsed",
    "Comparison",
    "Measured",
    "Provenance",
    "Reference",
    "compare",
    "load_comparison",
    "load_reference",
    "record_reference",
    "render_json",
    "render_markdown",
    "render_terminal",
    "save_comparison",
    "supports_colour",
    "write_reference",
]
