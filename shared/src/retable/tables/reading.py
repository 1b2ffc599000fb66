"""Read and check a reference file; an error names the file, the row or column, and the field."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retable.domains import Interval, shown
from retable.errors import UserError
from retable.settings import PlainValueError, Problem, from_plain
from retable.tables.reference import Reference
from retable.text import one_line


def load_reference(path: str | Path) -> Reference:
    """Read and check a reference file, which `retable.tables.reference` describes.

    Raises:
        UserError: the file is missing or malformed; the message has one line for each mistake.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot read this reference file ({error}).") from None
    return parse_reference(text, path)


def parse_reference(text: str, path: Path) -> Reference:
    """Parse the text of the reference file ``path``; errors are those of `load_reference`."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = one_line(str(error).removesuffix("."))
        raise UserError(f"{path}: not valid TOML ({reason}). Correct the file.") from None
    rows = _tables(content, "rows")
    for column in _tables(content, "columns"):
        column.setdefault("decimals", _shown_decimals(column.get("key"), rows))
    problems: list[Problem] = []
    try:
        reference = from_plain(Reference, content)
    except PlainValueError as error:
        problems = error.problems
    problems += _contradictions(content)
    if problems:
        lines = (f"{path}: {_place(one.owner, content)}{one.message}." for one in problems)
        raise UserError("\n".join(dict.fromkeys(lines)))
    return replace(reference, path=path)


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _tables(content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = content.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _shown_decimals(column: Any, rows: list[dict[str, Any]]) -> int:
    """Return as many decimals as the stored values of a column have, from one to four."""
    if not isinstance(column, str):
        return 1
    cells = [_table(_table(row, "values"), column) for row in rows]
    numbers = [cell.get(name) for cell in cells for name in ("value", "std")]
    texts = [repr(number) for number in numbers if isinstance(number, float)]
    lengths = [len(text.partition(".")[2]) for text in texts if "e" not in text]
    return min(max([1, *lengths]), 4)


def _contradictions(content: dict[str, Any]) -> Iterator[Problem]:
    """Yield the problems between parts of the file."""
    known = {
        name: [part.get("key") for part in _tables(content, name)] for name in ("columns", "rows")
    }
    for section, keys in known.items():
        for number, key in enumerate(keys):
            if key is not None and keys.count(key) > 1:
                yield Problem((section, number), "`key` must be unique, but appears twice")
    seeds = _table(content, "provenance").get("seeds")
    if isinstance(seeds, list) and len({repr(seed) for seed in seeds}) < len(seeds):
        yield Problem(("provenance",), "`seeds` must name each seed once, but repeats one")
    for number, row in enumerate(_tables(content, "rows")):
        values = _table(row, "values")
        if not _is_plain(recipe := row.get("recipe", {})):
            message = "`recipe` must hold text, finite numbers, true or false"
            yield Problem(("rows", number), f"{message}, got {shown(recipe)}")
        for column in values:
            if column not in known["columns"]:
                names = ", ".join(map(str, known["columns"]))
                message = f"`values` must name columns ({names}), got {column!r}"
                yield Problem(("rows", number), message)
            if isinstance(seeds, list):
                yield from _seed_mismatch(number, column, _table(values, column), len(seeds))
    for number, claim in enumerate(_tables(content, "claims")):
        if "better" in claim and claim["better"] == claim.get("than"):
            message = f"`better` and `than` must be two rows, got {claim['better']!r} twice"
            yield Problem(("claims", number), message)
        for name, section in (("better", "rows"), ("than", "rows"), ("column", "columns")):
            if claim.get(name) and claim[name] not in known[section]:
                message = f"`{name}` must be a key of the {section}, got {claim[name]!r}"
                yield Problem(("claims", number), message)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool | str) or value in Interval()


def _seed_mismatch(number: int, column: str, cell: dict[str, Any], seeds: int) -> Iterator[Problem]:
    collapsed = "collapsed" in cell
    name, runs = ("runs", cell.get("runs")) if collapsed else ("per_seed", cell.get("per_seed", []))
    count = len(runs) if isinstance(runs, list) else runs
    if count != seeds:
        message = f"`{name}` must hold the {seeds} recorded seeds, got {count}. Record again"
        yield Problem(("rows", number, "values", column), message)


def _place(owner: Sequence[str | int], content: dict[str, Any]) -> str:
    """Return the place of a problem as a user finds it in the file."""
    if len(owner) < 2:
        return "".join(f"[{name}]: " for name in owner)
    section, number, *rest = owner
    key = content[str(section)][number].get("key", int(number) + 1)
    if rest[:1] == ["values"]:
        rest = [f"column {rest[1]!r}"]
    return ", ".join([f"{str(section)[:-1]} {key!r}", *map(str, rest)]) + ": "
