"""The stored numbers that a table is compared with, as data.

A reference file is TOML. ``[table]`` says what it is and where it is from; ``[[columns]]``,
``[[rows]]`` and ``[[claims]]`` follow, and ``[provenance]`` where we recorded it ourselves::

    [[columns]]
    key = "top1"
    label = "Top-1"
    unit = "%"
    higher_is_better = true
    tolerance = { value = 1.2, reason = "three of the stds below" }
    spread = { std = 0.39, degrees = 4, reason = "root mean square of the printed stds" }

    [[rows]]
    key = "moco_v2"
    label = "MoCo-v2"
    origin = "reimplemented"
    values = { top1 = { value = 78.0, std = 0.2, runs = 3 } }

``std`` and ``runs`` stay out where nobody printed them: ``spread`` says what stands in, and why.

A row that is stated to collapse has ``recipe.expected = "collapse"`` and no value: it stands for a
collapse in every column that other rows print numbers in. Where we recorded collapses ourselves,
``values = { top1 = { collapsed = 5, runs = 5 } }`` says in how many of the runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from retable.tables.statistics import Spread, spread_of

Origin = Literal["cited", "reimplemented", "run", "extra"]
"""Where a row comes from: quoted by the paper from others, rerun by its authors, the paper's own,
or added by us (no number to compare with)."""

COLLAPSE = "collapse"
"""What ``recipe.expected`` says of a row that collapses."""


def _require(fits: bool, name: str, expected: str, value: object) -> None:
    if not fits:
        raise ValueError(f"`{name}` must be {expected}, got {value!r}")


@dataclass(frozen=True)
class Tolerance:
    """How far a mean may be from the reference and still count as the same, and why that far."""

    value: float
    reason: str

    def __post_init__(self) -> None:
        _require(0 <= self.value < math.inf, "value", "a number of at least 0", self.value)


@dataclass(frozen=True)
class StatedSpread:
    """A column's run-to-run std, the degrees of freedom behind it, and where it is from."""

    std: float
    degrees: float
    reason: str

    def __post_init__(self) -> None:
        _require(0 <= self.std < math.inf, "std", "a number of at least 0", self.std)
        _require(0 < self.degrees < math.inf, "degrees", "a number above 0", self.degrees)

    @property
    def spread(self) -> Spread:
        """The numbers alone."""
        return Spread(self.std, self.degrees)


@dataclass(frozen=True)
class ColumnSpec:
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

    def __post_init__(self) -> None:
        _require(math.isfinite(self.value), "value", "a finite number", self.value)
        _require(all(map(math.isfinite, self.per_seed)), "per_seed", "finite", self.per_seed)
        for name in ("std", "tolerance"):
            number = getattr(self, name) or 0.0
            _require(0 <= number < math.inf, name, "a number of at least 0", number)
        if self.runs is not None:
            _require(self.runs >= 1, "runs", "at least 1", self.runs)
            same = self.runs == (len(self.per_seed) or self.runs)
            _require(same, "runs", f"the {len(self.per_seed)} of per_seed", self.runs)

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
class Collapse:
    """What a cell says instead of a number where runs collapsed; both None: stated, not counted."""

    collapsed: int | None = None
    runs: int | None = None

    def __post_init__(self) -> None:
        if self.runs is not None and self.collapsed is not None:
            fits = 1 <= self.collapsed <= self.runs
            _require(fits, "collapsed", f"from 1 to runs = {self.runs}", self.collapsed)
        else:
            _require(self.runs is self.collapsed, "collapsed", "stated with runs", self.collapsed)

    @property
    def always(self) -> bool:
        """Whether every run collapsed."""
        return self.collapsed == self.runs


@dataclass(frozen=True)
class RowSpec:
    """One line of the table."""

    key: str
    label: str
    origin: Origin
    recipe: Mapping[str, Any]
    values: Mapping[str, Value | Collapse]
    unjudged: str = ""

    def __post_init__(self) -> None:
        expected = self.recipe.get("expected", COLLAPSE)
        if expected != COLLAPSE or ("expected" in self.recipe and self.values):
            raise ValueError(
                f"`recipe.expected` must be {COLLAPSE!r} in a row without values, got {expected!r}"
            )


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
    columns: tuple[ColumnSpec, ...]
    rows: tuple[RowSpec, ...]
    claims: tuple[Claim, ...] = ()
    tolerance: Tolerance | None = None
    provenance: Provenance | None = None
    path: Path | None = field(default=None, compare=False)

    @property
    def recorded(self) -> bool:
        """Whether we measured these numbers ourselves (proxy scale) or the paper printed them."""
        return self.provenance is not None

    def at(self, path: Path) -> Reference:
        """Return the reference with the path of its file."""
        return replace(self, path=path)

    def row(self, key: str) -> RowSpec | None:
        """Return the row of this key, None if there is none."""
        return next((row for row in self.rows if row.key == key), None)

    def column(self, key: str) -> ColumnSpec | None:
        """Return the column of this key, None if there is none."""
        return next((column for column in self.columns if column.key == key), None)

    def stored(self, row_key: str, column_key: str) -> Value | Collapse | None:
        """Return what a cell says, a number or a collapse; None if it is empty."""
        row = self.row(row_key)
        if row is None:
            return None
        if row.recipe.get("expected") == COLLAPSE and self._prints_numbers(column_key):
            return row.values.get(column_key, Collapse())
        return row.values.get(column_key)

    def _prints_numbers(self, column_key: str) -> bool:
        return any(isinstance(row.values.get(column_key), Value) for row in self.rows)

    def value(self, row_key: str, column_key: str) -> Value | None:
        """Return a cell's stored number, None if it has none."""
        stored = self.stored(row_key, column_key)
        return stored if isinstance(stored, Value) else None

    def tolerance_of(self, row_key: str, column_key: str) -> float | None:
        """Return the cell's tolerance: its own, else its column's, else the table's."""
        value, column = self.value(row_key, column_key), self.column(column_key)
        if value is not None and value.tolerance is not None:
            return value.tolerance
        stated = (column.tolerance if column else None) or self.tolerance
        return stated.value if stated else None
