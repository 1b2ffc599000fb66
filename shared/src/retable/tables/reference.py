"""The stored numbers that a table is compared with: read and checked.

A reference file is TOML: ``[table]``, ``[[columns]]``, ``[[rows]]``, ``[[claims]]`` and, where we
recorded it ourselves, ``[provenance]``. Numbers without a spread or a tolerance say in a ``reason``
what stands in for it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from retable.errors import UserError
from retable.tables.statistics import Spread, spread_of

Origin = Literal["cited", "reimplemented", "run", "extra"]
"""Where a row comes from: quoted by the paper from others, rerun by its authors, the paper's own,
or added by us (no number to compare with)."""


@dataclass(frozen=True)
class Tolerance:
    """How far a mean may be from the reference and still count as the same, and why that far."""

    value: float
    reason: str


@dataclass(frozen=True)
class StatedSpread:
    """A column's run-to-run std, the degrees of freedom behind it, and where it is from."""

    std: float
    degrees: float
    reason: str

    @property
    def spread(self) -> Spread:
        """The numbers alone."""
        return Spread(self.std, self.degrees)


@dataclass(frozen=True)
class Column:
    """One measured quantity.

    Attributes:
        decimals: how many are shown; by default as many as the stored values have, at least one.
        not_run: why nothing in this column is measured, empty if it is.
        unjudged: why its numbers are shown without verdict, empty if they are judged.
    """

    key: str
    label: str
    unit: str
    higher_is_better: bool
    decimals: int = 1
    tolerance: Tolerance | None = None
    spread: StatedSpread | None = None
    not_run: str = ""
    unjudged: str = ""


@dataclass(frozen=True)
class Value:
    """A stored number: a mean, its std over ``runs``, and each run where we know them."""

    value: float
    std: float | None = None
    runs: int | None = None
    per_seed: tuple[float, ...] = ()
    tolerance: float | None = None

    @property
    def runs_at_least(self) -> int:
        """The runs behind the mean; unprinted, a std proves two and a bare number one."""
        return self.runs or (1 if self.std is None else 2)

    @property
    def spread(self) -> Spread | None:
        """The printed std with its degrees of freedom, None where a single run was printed."""
        if self.per_seed:
            return spread_of(self.per_seed)
        if self.std is None or self.runs_at_least < 2:
            return None
        return Spread(self.std, self.runs_at_least - 1)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    key: str
    label: str
    origin: Origin
    recipe: Mapping[str, Any]
    values: Mapping[str, Value]
    unjudged: str = ""


@dataclass(frozen=True)
class Claim:
    """Row ``better`` beats row ``than`` in ``column`` by about ``margin`` (0: just the order)."""

    text: str
    better: str
    than: str
    column: str
    margin: float


@dataclass(frozen=True)
class Provenance:
    """How we recorded a reference."""

    command: str
    seeds: tuple[int, ...]
    commit: str
    date: str
    hardware: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Reference:
    """A whole table of stored numbers."""

    id: str
    title: str
    paper: str
    source: str
    dataset: str
    notes: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    tolerance: Tolerance | None = None
    provenance: Provenance | None = None
    path: Path | None = field(default=None, compare=False)

    @property
    def recorded(self) -> bool:
        """Whether we measured these numbers ourselves (proxy scale) or the paper printed them."""
        return self.provenance is not None

    def row(self, key: str) -> Row | None:
        """Return the row of this key, None if there is none."""
        return next((row for row in self.rows if row.key == key), None)

    def column(self, key: str) -> Column | None:
        """Return the column of this key, None if there is none."""
        return next((column for column in self.columns if column.key == key), None)

    def value(self, row_key: str, column_key: str) -> Value | None:
        """Return a cell's stored number, None if the cell is empty."""
        row = self.row(row_key)
        return row.values.get(column_key) if row else None

    def tolerance_of(self, row_key: str, column_key: str) -> float | None:
        """Return the cell's tolerance: its own, else its column's, else the table's."""
        value, column = self.value(row_key, column_key), self.column(column_key)
        if value is not None and value.tolerance is not None:
            return value.tolerance
        stated = (column.tolerance if column else None) or self.tolerance
        return stated.value if stated else None


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


def _value(fields: _Fields) -> Value:
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


def _row(path: Path, content: Any, columns: Mapping[str, Column]) -> Row:
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
    label, unjudged = fields.take("label", str), fields.optional("unjudged", str, "")
    fields.finish()
    return Row(key, label, origin, recipe, values, unjudged)


def _shown_decimals(values: list[Any]) -> int:
    """As many decimals as the stored values of a column have, from one to four."""
    texts = [repr(v) for v in values if isinstance(v, float)]
    lengths = [len(text.partition(".")[2]) for text in texts if "e" not in text]
    return min(max([1, *lengths]), 4)


def _column(path: Path, content: Any, rows: list[Any]) -> Column:
    fields = _Fields(path, "a column", content)
    key = fields.take("key", str)
    fields.where = f"column '{key}'"
    cells = [row.get("values", {}).get(key, {}) for row in rows if isinstance(row, dict)]
    stored = [cell.get(name) for cell in cells for name in ("value", "std") if name in cell]
    column = Column(
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
            if len(value.per_seed) != count:
                raise UserError(
                    f"{reference.path}: row '{row.key}', column '{column}' has"
                    f" {len(value.per_seed)} numbers in per_seed for {count} seeds; record again."
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
