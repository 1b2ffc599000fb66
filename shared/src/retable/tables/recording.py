"""Turn measured numbers into a stored reference: the proxy scale's own numbers."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from retable import files
from retable.errors import UserError
from retable.tables.comparison import Collapsed, Measured
from retable.tables.reading import parse_reference
from retable.tables.reference import (
    Collapse,
    ColumnSpec,
    Provenance,
    Reference,
    RowSpec,
    StatedSpread,
    Tolerance,
    Value,
)
from retable.tables.statistics import Spread, mean, spread_of
from retable.tables.verdict import recorded_tolerances

LEAST_SEEDS = 3
"""A spread of two degrees of freedom is poor, but it is shrunk towards that of all rows."""

_NOTES = "Absolute numbers are not the paper's: the data, the encoder and the schedule are small."


def record_reference(
    paper: Reference,
    measured: Measured,
    provenance: Provenance,
    *,
    collapsed: Collapsed | None = None,
    earlier: Reference | None = None,
) -> Reference:
    """Return a reference that holds what we measured, with tolerances that follow from its spread.

    Args:
        paper: the paper's table; gives columns, labels and what is not compared.
        measured: row -> column -> seed -> number; every cell with all seeds of the provenance.
        provenance: how it was measured.
        collapsed: row -> column -> seed -> why the run has no number there. Of such a cell only the
            number of these seeds is stored: what is left of its numbers is no mean to match.
        earlier: a recording of the same cells with other seeds, which are kept.

    Raises:
        UserError: fewer than three seeds, a cell without one of them, a number that is not finite,
            an unknown column, or a cell that only one of two recordings has.
    """
    seeds = provenance.seeds
    if earlier is not None and earlier.provenance is not None:
        provenance = joined(earlier.provenance, provenance)
    if len(set(provenance.seeds)) < LEAST_SEEDS:
        raise UserError(
            f"Recording {paper.table.id} needs at least {LEAST_SEEDS} different seeds, not"
            f" {len(set(provenance.seeds))}: name them with --seeds."
        )
    collapsed = collapsed or {}
    keys = dict.fromkeys([*measured, *collapsed])
    printed = [row.key for row in paper.rows if row.key in keys]
    rows = {
        key: _recorded_row(paper, key, measured.get(key, {}), collapsed.get(key, {}), seeds)
        for key in dict.fromkeys([*printed, *keys])
    }
    if earlier is not None:
        rows = _extended(earlier, rows)
    unjudged = {column.key for column in paper.columns if column.unjudged}
    compared = {
        key: {
            column: value.per_seed
            for column, value in row.values.items()
            if isinstance(value, Value) and not row.unjudged and column not in unjudged
        }
        for key, row in rows.items()
    }
    decimals = {column.key: column.decimals for column in paper.columns}
    spreads, tolerances = recorded_tolerances(compared, decimals)
    columns = tuple(
        _recorded_column(column, spreads.get(column.key), tolerances, len(provenance.seeds))
        for column in paper.columns
        if any(column.key in row.values for row in rows.values())
    )
    common = {c.key: c.tolerance.value for c in columns if c.tolerance is not None}
    table = replace(
        paper.table,
        source="recorded by the command below, on the built-in data set",
        dataset="built-in data set, proxy scale",
        notes=_NOTES,
        decisions=(),
    )
    stored = tuple(_with_tolerances(row, tolerances[key], common) for key, row in rows.items())
    return Reference(table, columns, stored, provenance=provenance)


def _extended(earlier: Reference, rows: Mapping[str, RowSpec]) -> dict[str, RowSpec]:
    """Return rows with the stored runs before their own."""
    extended = {}
    for key in dict.fromkeys([*(row.key for row in earlier.rows), *rows]):
        before, row = earlier.row(key), rows.get(key)
        cells = ((before and before.values) or {}, (row and row.values) or {})
        differing = sorted(cells[0].keys() ^ cells[1].keys())
        if before is None or row is None or differing:
            what = f"row '{key}'" + (f", column '{differing[0]}'" if differing else "")
            raise UserError(
                f"Cannot add seeds to {earlier.path or earlier.table.id}: only it or only these "
                f"seeds have {what}. Record all seeds again."
            )
        values = {name: _joined_value(value, row.values[name]) for name, value in cells[0].items()}
        extended[key] = replace(row, values=values)
    return extended


def _joined_value(one: Value | Collapse, other: Value | Collapse) -> Value | Collapse:
    if isinstance(one, Value) and isinstance(other, Value):
        return _recorded_value([*one.per_seed, *other.per_seed])
    gone = sum(each.collapsed or 0 for each in (one, other) if isinstance(each, Collapse))
    return Collapse(gone, (one.runs or 0) + (other.runs or 0))


def joined(one: Provenance, other: Provenance) -> Provenance:
    """Return the provenance of a recording in two parts."""

    def both(first: str, second: str) -> str:
        return first if second in first.split("; ") else f"{first}; {second}"

    versions = {
        name: both(one.versions.get(name, "none"), other.versions.get(name, "none"))
        for name in dict.fromkeys([*one.versions, *other.versions])
    }
    return Provenance(
        command=both(one.command, other.command),
        seeds=(*one.seeds, *other.seeds),
        commit=both(one.commit, other.commit),
        date=max(one.date, other.date),
        hardware=both(one.hardware, other.hardware),
        versions=versions,
    )


def _recorded_row(
    paper: Reference,
    key: str,
    cells: Mapping[str, Mapping[int, float]],
    collapsed: Mapping[str, Mapping[int, str]],
    seeds: tuple[int, ...],
) -> RowSpec:
    known = [column.key for column in paper.columns]
    values: dict[str, Value | Collapse] = {}
    for column in dict.fromkeys([*cells, *collapsed]):
        if column not in known:
            raise UserError(
                f"{paper.path or paper.table.id} has no column '{column}' to record: add it under"
                f" [[columns]] (there are {', '.join(known)})."
            )
        numbers, gone = cells.get(column, {}), collapsed.get(column, {})
        for seed in seeds:
            if seed not in gone and not math.isfinite(numbers.get(seed, math.nan)):
                raise UserError(
                    f"Cannot record {paper.table.id}: row '{key}', column '{column}', seed {seed}"
                    f" is {numbers.get(seed, 'missing')}; run it, then record again."
                )
        if gone:
            values[column] = Collapse(len(gone), len(seeds))
        else:
            values[column] = _recorded_value([numbers[seed] for seed in seeds])
    row = paper.row(key) or RowSpec(key, key, "extra", values={})
    return replace(row, values=values, recipe={})


def _recorded_value(numbers: Sequence[float]) -> Value:
    # Eight digits are beyond any spread, and the file stays readable.
    runs = tuple(float(f"{number:.8g}") for number in numbers)
    spread = spread_of(runs)  # None of one run, which joins earlier ones
    std = None if spread is None else float(f"{spread.std:.4g}")
    return Value(float(f"{mean(runs):.8g}"), std, len(runs), runs)


def _recorded_column(
    column: ColumnSpec,
    spread: Spread | None,
    tolerances: Mapping[str, Mapping[str, float]],
    runs: int,
) -> ColumnSpec:
    if spread is None:
        return replace(column, tolerance=None, spread=None, not_run="")
    count = sum(len(cells) for cells in tolerances.values())
    smallest = min(cells[column.key] for cells in tolerances.values() if column.key in cells)
    reason = (
        "An unchanged method with one fresh seed raises no miss in at least 99 of 100 tables:"
        f" Student's prediction interval for one run after {runs}, Bonferroni over the {count}"
        " cells, with each cell's std shrunk towards its column's. A cell that varies more than the"
        " column's quietest has its own tolerance."
    )
    std, degrees = float(f"{spread.std:.4g}"), float(spread.degrees)
    stated = StatedSpread(std, degrees, "Pooled over the rows of this column.")
    tolerance = Tolerance(_rounded_up(smallest), reason)
    return replace(column, tolerance=tolerance, spread=stated, not_run="")


def _rounded_up(value: float) -> float:
    """Round up to three significant digits: rounding must not narrow a tolerance."""
    if value == 0.0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / step - 1e-9) * step:.6g}")


def _with_tolerances(
    row: RowSpec, own: Mapping[str, float], common: Mapping[str, float]
) -> RowSpec:
    values = {
        column: replace(value, tolerance=_rounded_up(own[column]))
        if isinstance(value, Value) and _rounded_up(own.get(column, 0.0)) > common.get(column, 0.0)
        else value
        for column, value in row.values.items()
    }
    return replace(row, values=values)


def write_reference(path: str | os.PathLike[str], reference: Reference) -> None:
    """Write a reference as TOML, atomically; reading it back gives an equal one."""
    text = reference_text(reference)
    assert parse_reference(text, Path(path)) == reference, "a reference must survive being written"
    files.write_text(path, text)


def reference_text(reference: Reference) -> str:
    """Return a reference as TOML."""
    sections: list[str] = []
    for name in ("table", "tolerance", "provenance", "columns", "rows", "claims"):
        found = getattr(reference, name)
        if isinstance(found, tuple):
            sections += [text for one in found for text in _sections(name, one, "[[{}]]")]
        elif found is not None:
            sections += _sections(name, found)
    return "\n".join(sections)


def _sections(name: str, value: Any, head: str = "[{}]") -> list[str]:
    """Return the section of a dataclass, then those of the dataclasses in its fields."""
    text, others = head.format(name) + "\n", []
    for key, part in _stated(value).items():
        if is_dataclass(part):
            others += _sections(f"{name}.{key}", part)
        elif key == "values" and part:
            text += "".join(f"{key}.{_key(k)} = {_toml(_stated(v))}\n" for k, v in part.items())
        else:
            text += f"{key} = {_toml(part)}\n"
    return [text, *others]


def _stated(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass without empty ones that have a default."""
    stated = {}
    for field in fields(value):
        part = getattr(value, field.name)
        required = field.default is field.default_factory is MISSING
        if required or part not in (None, "", (), {}):
            stated[field.name] = part
    return stated


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _toml(value: Any) -> str:
    if isinstance(value, str | bool | int | float):
        # JSON is TOML but for this one character in strings.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    raise TypeError(f"TOML has no {type(value).__name__}")
