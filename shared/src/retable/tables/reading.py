"""Read and check a reference file; an error names the file, the row or column, and the field."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retable.errors import UserError
from retable.settings import PlainValueError, Problem, from_plain
from retable.tables.reference import Reference

_HEAD = ("id", "title", "paper", "source", "dataset", "notes")
_SECTIONS = ("columns", "rows", "claims", "tolerance", "provenance")


def load_reference(path: str | Path) -> Reference:
    """Read and check a reference file.

    Raises:
        UserError: the file is missing or malformed; the message has one line for each mistake.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read this reference file ({error}).") from None
    return parse_reference(text, path)


def parse_reference(text: str, path: Path) -> Reference:
    """Parse the text of a reference file.

    Args:
        text: TOML, as `retable.tables.reference` describes it.
        path: Path of the file, for the messages.

    Raises:
        UserError: the text is malformed; the message has one line for each mistake.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML ({error}). Correct the file.") from None
    problems = list(_unknown_names(content))
    plain = _completed(content)
    try:
        reference = from_plain(Reference, plain)
    except PlainValueError as error:
        problems += error.problems
    problems += _contradictions(plain)
    if problems:
        lines = (f"{path}: {_place(problem, plain)}{problem.message}." for problem in problems)
        raise UserError("\n".join(dict.fromkeys(lines)))
    return reference.at(path)


def _unknown_names(content: dict[str, Any]) -> Iterator[Problem]:
    if "table" not in content:
        yield Problem((), "`table` must be a section, got nothing")
    for name in content.keys() - {"table", *_SECTIONS}:
        yield Problem((), f"`{name}` must be one of the sections table, {', '.join(_SECTIONS)}")
    for name in _table(content, "table").keys() - set(_HEAD):
        yield Problem((), f"`{name}` must be one of the fields {', '.join(_HEAD)} of [table]")


def _completed(content: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a `Reference`, with the file format's own defaults."""
    head, rows = _table(content, "table"), _tables(content, "rows")
    missing = ["notes"] if "table" in content else _HEAD
    plain: dict[str, Any] = dict.fromkeys(missing, "")
    plain |= {name: value for name, value in head.items() if name in _HEAD}
    plain |= {name: content[name] for name in _SECTIONS if name in content}
    if isinstance(content.get("columns"), list):
        plain["columns"] = [
            {"decimals": _shown_decimals(column.get("key"), rows), **column}
            if isinstance(column, dict)
            else column
            for column in content["columns"]
        ]
    if isinstance(content.get("rows"), list):
        plain["rows"] = [
            {"recipe": {}, **row} if isinstance(row, dict) else row for row in content["rows"]
        ]
    return plain


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a nested table; an empty one where something else, or nothing, is in its place."""
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _tables(content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = content.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _shown_decimals(column: Any, rows: list[dict[str, Any]]) -> int:
    """Return as many decimals as the stored values of a column have, from one to four."""
    cells = [_table(_table(row, "values"), column) for row in rows]
    numbers = [cell.get(name) for cell in cells for name in ("value", "std")]
    texts = [repr(number) for number in numbers if isinstance(number, float)]
    lengths = [len(text.partition(".")[2]) for text in texts if "e" not in text]
    return min(max([1, *lengths]), 4)


def _contradictions(plain: dict[str, Any]) -> Iterator[Problem]:
    """Yield what no part of the file shows alone."""
    known = {}
    for section in ("columns", "rows"):
        keys = Counter(part.get("key") for part in _tables(plain, section))
        known[section] = keys.keys()
        for number, part in enumerate(plain.get(section, [])):
            key = part.get("key") if isinstance(part, dict) else None
            if key is not None and keys[key] > 1:
                yield Problem((section, number), "`key` must be unique, but appears twice")
    seeds = _table(plain, "provenance").get("seeds")
    for number, row in enumerate(_tables(plain, "rows")):
        values = _table(row, "values")
        for column in values:
            if column not in known["columns"]:
                names = ", ".join(map(str, known["columns"]))
                yield Problem(
                    ("rows", number), f"`values` must name columns ({names}), got {column!r}"
                )
            stored = _table(values, column).get("value")
            if isinstance(stored, float) and not math.isfinite(stored):
                place = ("rows", number, "values", column)
                yield Problem(place, f"`value` must be a finite number, got {stored}")
            if isinstance(seeds, list):
                yield from _seed_mismatch(number, column, _table(values, column), len(seeds))
    for number, claim in enumerate(_tables(plain, "claims")):
        for name, section in (("better", "rows"), ("than", "rows"), ("column", "columns")):
            if name in claim and claim[name] not in known[section]:
                yield Problem(
                    ("claims", number),
                    f"`{name}` must be a key of the {section}, got {claim[name]!r}",
                )


def _seed_mismatch(number: int, column: str, cell: dict[str, Any], seeds: int) -> Iterator[Problem]:
    collapsed = "collapsed" in cell
    name, runs = ("runs", cell.get("runs")) if collapsed else ("per_seed", cell.get("per_seed", []))
    count = len(runs) if isinstance(runs, list) else runs
    if count != seeds:
        message = f"`{name}` must hold the {seeds} recorded seeds, got {count}. Record again"
        yield Problem(("rows", number, "values", column), message)


def _place(problem: Problem, plain: dict[str, Any]) -> str:
    """Return the place of a problem as a user finds it in the file."""
    if not problem.owner:
        in_head = problem.message.startswith(tuple(f"`{name}`" for name in _HEAD))
        return "[table]: " if in_head else ""
    section, *rest = problem.owner
    names = [str(section)]
    if rest and isinstance(rest[0], int):
        part = plain[str(section)][rest[0]]
        key = part.get("key") if section != "claims" and isinstance(part, dict) else None
        names = [f"{str(section)[:-1]} {rest[0] + 1 if key is None else repr(key)}"]
        names += ["column " + repr(name) for name in rest[2:]] if rest[1:2] == ["values"] else []
        names += [str(name) for name in rest[1:]] if rest[1:2] != ["values"] else []
    return ", ".join(names) + ": "
