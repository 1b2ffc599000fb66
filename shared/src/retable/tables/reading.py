"""Read and check a reference file; what is wrong is named by file, row and field."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from retable.errors import UserError
from retable.tables.reference import (
    COLLAPSE,
    Claim,
    Collapse,
    ColumnSpec,
    Origin,
    Provenance,
    Reference,
    RowSpec,
    StatedSpread,
    Tolerance,
    Value,
)


class _Fields:
    """The fields of one TOML table: each is taken once with its type, what is left is an error."""

    def __init__(self, path: Path, where: str, content: object) -> None:
        self.path, self.where = path, where
        if not isinstance(content, dict):
            raise UserError(f"{path}: {where} must be a table of fields, not {content!r}.")
        self.content = dict(content)

    def error(self, sentence: str) -> UserError:
        return UserError(f"{self.path}: {self.where} {sentence}.")

    def take(self, name: str, kind: type, default: Any = None, *, required: bool = True) -> Any:
        if name not in self.content:
            if required:
                raise self.error(f"lacks the field '{name}' ({kind.__name__}); add it")
            return default
        value = self.content.pop(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind is float and number and math.isfinite(value):
            return float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise self.error(f"has {name} = {value!r}; write a {kind.__name__}")
        if kind is float:
            raise self.error(f"has {name} = {value!r}; write a finite number")
        return value

    def optional(self, name: str, kind: type, default: Any = None) -> Any:
        return self.take(name, kind, default, required=False)

    def nested(self, name: str) -> _Fields | None:
        if name not in self.content:
            return None
        return _Fields(self.path, f"{self.where}, {name},", self.content.pop(name))

    def finish(self) -> None:
        if self.content:
            names = ", ".join(f"'{name}'" for name in self.content)
            raise self.error(f"has unknown fields {names}; remove or correct them")


def _tolerance(fields: _Fields | None) -> Tolerance | None:
    if fields is None:
        return None
    tolerance = Tolerance(fields.take("value", float), fields.take("reason", str))
    if tolerance.value < 0:
        raise fields.error(f"has value = {tolerance.value}; a tolerance is not negative")
    fields.finish()
    return tolerance


def _stated_spread(fields: _Fields | None) -> StatedSpread | None:
    if fields is None:
        return None
    std, degrees = fields.take("std", float), fields.take("degrees", float)
    if std < 0 or degrees <= 0:
        raise fields.error(f"has std = {std}, degrees = {degrees}; both count upwards from 0")
    stated = StatedSpread(std, degrees, fields.take("reason", str))
    fields.finish()
    return stated


def _value(fields: _Fields) -> Value | Collapse:
    if "collapsed" in fields.content:
        return _collapse(fields)
    per_seed = fields.optional("per_seed", list, [])
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in per_seed):
        raise fields.error(f"has per_seed = {per_seed}; write finite numbers")
    value = Value(
        fields.take("value", float),
        fields.optional("std", float),
        fields.optional("runs", int),
        tuple(float(v) for v in per_seed),
        fields.optional("tolerance", float),
    )
    if value.runs is not None and value.runs < 1:
        raise fields.error(f"has runs = {value.runs}; a value comes from at least one run")
    if value.per_seed and value.runs not in (None, len(value.per_seed)):
        raise fields.error(f"has runs = {value.runs} but {len(value.per_seed)} numbers in per_seed")
    if min(value.std or 0.0, value.tolerance or 0.0) < 0:
        raise fields.error("has a negative std or tolerance; neither can be")
    fields.finish()
    return value


def _collapse(fields: _Fields) -> Collapse:
    collapsed, runs = fields.take("collapsed", int), fields.take("runs", int)
    if not 1 <= collapsed <= runs:
        raise fields.error(f"has collapsed = {collapsed} of runs = {runs}; write 1 to {runs}")
    fields.finish()
    return Collapse(collapsed, runs)


def _row(path: Path, content: Any, columns: Mapping[str, ColumnSpec]) -> RowSpec:
    fields = _Fields(path, "a row", content)
    key = fields.take("key", str)
    fields.where = f"row '{key}'"
    cells = _Fields(path, f"row '{key}', values,", fields.take("values", dict))
    for column in cells.content:
        if column not in columns:
            known = ", ".join(columns)
            raise cells.error(f"names the column '{column}'; the columns are {known}")
    values = {
        column: _value(_Fields(path, f"row '{key}', column '{column}',", content))
        for column, content in cells.content.items()
    }
    origin = fields.take("origin", str)
    if origin not in get_args(Origin):
        choices = ", ".join(get_args(Origin))
        raise fields.error(f"has origin = '{origin}'; it is one of {choices}")
    recipe = fields.optional("recipe", dict, {})
    expected = recipe.get("expected", COLLAPSE)
    if expected != COLLAPSE or ("expected" in recipe and values):
        raise fields.error(
            f"has recipe.expected = '{expected}'; write '{COLLAPSE}', in a row without values"
        )
    label, unjudged = fields.take("label", str), fields.optional("unjudged", str, "")
    fields.finish()
    return RowSpec(key, label, origin, recipe, values, unjudged)


def _shown_decimals(values: list[Any]) -> int:
    """As many decimals as the stored values of a column have, from one to four."""
    texts = [repr(v) for v in values if isinstance(v, float)]
    lengths = [len(text.partition(".")[2]) for text in texts if "e" not in text]
    return min(max([1, *lengths]), 4)


def _column(path: Path, content: Any, rows: list[Any]) -> ColumnSpec:
    fields = _Fields(path, "a column", content)
    key = fields.take("key", str)
    fields.where = f"column '{key}'"
    cells = [row.get("values", {}).get(key, {}) for row in rows if isinstance(row, dict)]
    stored = [cell.get(name) for cell in cells for name in ("value", "std") if name in cell]
    column = ColumnSpec(
        key,
        fields.take("label", str),
        fields.take("unit", str),
        fields.take("higher_is_better", bool),
        fields.optional("decimals", int, _shown_decimals(stored)),
        _tolerance(fields.nested("tolerance")),
        _stated_spread(fields.nested("spread")),
        fields.optional("not_run", str, ""),
        fields.optional("unjudged", str, ""),
    )
    fields.finish()
    return column


def _claim(path: Path, number: int, content: Any, rows: set[str], columns: set[str]) -> Claim:
    fields = _Fields(path, f"claim {number}", content)
    claim = Claim(
        fields.take("text", str),
        fields.take("better", str),
        fields.take("than", str),
        fields.take("column", str),
        fields.take("margin", float),
    )
    for name, key, known in (
        ("better", claim.better, rows),
        ("than", claim.than, rows),
        ("column", claim.column, columns),
    ):
        if key not in known:
            raise fields.error(f"has {name} = '{key}', which the table does not have")
    fields.finish()
    return claim


def _provenance(fields: _Fields | None) -> Provenance | None:
    if fields is None:
        return None
    provenance = Provenance(
        fields.take("command", str),
        tuple(fields.take("seeds", list)),
        fields.take("commit", str),
        fields.take("date", str),
        fields.take("hardware", str),
        fields.take("versions", dict),
    )
    fields.finish()
    return provenance


def _check_unique(path: Path, kind: str, keys: list[str]) -> None:
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"{path}: {kind} '{key}' appears twice; give each its own key.")


def parse_reference(text: str, path: Path) -> Reference:
    """Read a reference from the text of the file at ``path``, which errors name."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML ({error}); correct the file.") from None
    whole = _Fields(path, "the file", content)
    table = _Fields(path, "[table]", whole.take("table", dict))
    column_contents, row_contents = whole.take("columns", list), whole.take("rows", list)
    columns = tuple(_column(path, content, row_contents) for content in column_contents)
    _check_unique(path, "column", [column.key for column in columns])
    by_key = {column.key: column for column in columns}
    rows = tuple(_row(path, content, by_key) for content in row_contents)
    _check_unique(path, "row", [row.key for row in rows])
    row_keys = {row.key for row in rows}
    claims = tuple(
        _claim(path, number, content, row_keys, set(by_key))
        for number, content in enumerate(whole.optional("claims", list, []), start=1)
    )
    names = ("id", "title", "paper", "source", "dataset")
    texts = {name: table.take(name, str) for name in names}
    notes = table.optional("notes", str, "")
    tolerance = _tolerance(whole.nested("tolerance"))
    provenance = _provenance(whole.nested("provenance"))
    table.finish()
    whole.finish()
    reference = Reference(
        **texts,
        notes=notes,
        columns=columns,
        rows=rows,
        claims=claims,
        tolerance=tolerance,
        provenance=provenance,
        path=path,
    )
    _check_recorded_seeds(reference)
    return reference


def _check_recorded_seeds(reference: Reference) -> None:
    if reference.provenance is None:
        return
    count = len(reference.provenance.seeds)
    for row in reference.rows:
        for column, value in row.values.items():
            if isinstance(value, Collapse):
                runs, said = value.runs, f"runs = {value.runs}"
            else:
                runs, said = len(value.per_seed), f"{len(value.per_seed)} numbers in per_seed"
            if runs != count:
                raise UserError(
                    f"{reference.path}: row '{row.key}', column '{column}' has {said} for {count}"
                    " seeds; record again."
                )


def load_reference(path: str | Path) -> Reference:
    """Read and check a reference file.

    Raises:
        UserError: if it is missing or malformed; the sentence names file, row and field.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read this reference file ({error}).") from None
    return parse_reference(text, path)
