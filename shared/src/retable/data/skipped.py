"""What a data set leaves out: counted by reason, with the first names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retable.text import printable

_NAMED = 5  # names that a description keeps for each reason


class Skipped:
    """Counts entries of a folder or a table that are not taken in."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, reason: str, name: str) -> None:
        """Count an entry; ``reason`` is a plural such as "hidden files and folders"."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        names = self._names.setdefault(reason, [])
        if len(names) < _NAMED:
            names.append(printable(name))

    def facts(self) -> dict[str, dict[str, Any]]:
        """Return the entry "skipped" of a description: count and first names by reason."""
        return {
            reason: {"count": self._counts[reason], "first": self._names[reason]}
            for reason in sorted(self._counts)
        }


def count_line(description: Mapping[str, Any]) -> str:
    """Say how many images and classes a source has, and what it leaves out, in one line."""
    images, classes = description.get("images", 0), description.get("classes", 0)
    return "; ".join([f"{images:,} images of {classes:,} classes", *left_out(description)])


def left_out(description: Mapping[str, Any]) -> list[str]:
    """Say for each reason how many entries a source leaves out, with the first names."""
    parts: list[str] = []
    if count := description.get("unreadable", 0):
        parts.append(_part(count, "unreadable images", description.get("unreadable_first", ())))
    for reason, facts in description.get("skipped", {}).items():
        parts.append(_part(facts["count"], reason, facts["first"]))
    if count := description.get("unlabelled", 0):
        parts.append(f"without a label: {count:,}")
    return parts


def _part(count: int, reason: str, names: Iterable[str]) -> str:
    shown = list(names)[:3]
    more = ", ..." if count > len(shown) else ""
    return f"left out: {reason} ({count:,}: {', '.join(shown)}{more})"
