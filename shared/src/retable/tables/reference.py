"""Stored values that a table is compared with.

A reference file is TOML. ``[table]`` has the title and the source; ``[[columns]]``, ``[[rows]]``
and ``[[claims]]`` follow, and ``[provenance]`` if we recorded the values ourselves::

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

``std`` and ``runs`` are left out if nobody printed them; ``spread`` then gives a run-to-run std and
its reason.

A row that is stated to collapse has ``recipe.expected = "collapse"`` and no value: a collapse is
expected in every column that other rows print values in. For collapses that we recorded ourselves,
``values = { top1 = { collapsed = 5, runs = 5 } }`` counts the collapsed runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retable.tables.statistics import Spread, spread_of

Origin = Literal["cited", "reimplemented", "run", "extra"]
"""Origin of a row: quoted by the paper from others, rerun by its authors, the paper's own, or added
by us (nothing to compare with)."""

COLLAPSE = "collapse"
"""Value of ``recipe.expected`` for a row that collapses."""


def _require(fits: bool, name: str, expected: str, value: object) -> None:
    if not fits:
        raise ValueError(f"`{name}` must be {expected}, got {value!r}")


@dataclass(frozen=True)
class Tolerance:
    """Largest difference of a mean from the reference that still matches, with its reason."""

    value: float
    reason: str

    def __post_init__(self) -> None:
        _require(0 <= self.value < math.inf, "value", "a number of at least 0", self.value)


@dataclass(frozen=True)
class StatedSpread(Spread):
    """A column's run-to-run std with its source."""

    reason: str

    def __post_init__(self) -> None:
        _require(0 <= self.std < math.inf, "std", "a number of at least 0", self.std)
        _require(0 < self.degrees < math.inf, "degrees", "a number above 0", self.degrees)


@dataclass(frozen=True)
class ColumnSpec:
    """A metric of a table.

    Attributes:
        higher_is_better: None, which a file leaves out, where neither direction is better; claims
            on such a column say which row is higher.
        decimals: decimals shown; by default as many as the stored values have, at least one.
        not_run: why the metric is not measured, empty if it is.
        unjudged: why its values are shown without verdict, empty if they are compared.
    """

    key: str
    label: str
    unit: str
    higher_is_better: bool | None = field(default=None, kw_only=True)
    decimals: int
    spread: StatedSpread | None = None
    tolerance: Tolerance | None = None
    not_run: str = ""
    unjudged: str = ""


@dataclass(frozen=True)
class Value:
    """A stored value: a mean, its std over ``runs``, and each run if it is known."""

    value: float
    std: float | None = None
    runs: int | None = None
    per_seed: tuple[float, ...] = ()
    tolerance: float | None = None

    def __post_init__(self) -> None:
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
        """Runs of the mean; if unprinted, two with a std and one without."""
        return self.runs or (1 if self.std is None else 2)

    @property
    def spread(self) -> Spread | None:
        """The printed std with its degrees of freedom; None for a single run."""
        if self.per_seed:
            return spread_of(self.per_seed)
        if self.std is None or self.runs_at_least < 2:
            return None
        return Spread(self.std, self.runs_at_least - 1)


@dataclass(frozen=True)
class Collapse:
    """A collapse in place of a value.

    Attributes:
        collapsed: number of runs that collapsed; None if the paper states it without a count.
        runs: number of runs; None without a count.
    """

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
    """A row of a table; `unjudged` says why its values get no verdict, empty if they do."""

    key: str
    label: str
    origin: Origin
    recipe: Mapping[str, Any] = field(default_factory=dict)
    unjudged: str = ""
    values: Mapping[str, Value | Collapse] = field(kw_only=True)

    def __post_init__(self) -> None:
        expected = self.recipe.get("expected", COLLAPSE)
        if expected != COLLAPSE or ("expected" in self.recipe and self.values):
            raise ValueError(
                f"`recipe.expected` must be {COLLAPSE!r} in a row without values, got {expected!r}"
            )


@dataclass(frozen=True)
class Claim:
    """Row ``better`` beats row ``than`` in ``column`` by about ``margin`` (0: only the order).

    Better is lower where the column says so, otherwise higher.
    """

    text: str
    better: str
    than: str
    column: str
    margin: float


@dataclass(frozen=True)
class Provenance:
    """Command, seeds, commit, date and machine of a recorded reference."""

    command: str
    seeds: tuple[int, ...]
    commit: str
    date: str
    hardware: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class TableInfo:
    """Title of a table, and where it is printed.

    Attributes:
        decisions: what is run where the paper is silent, or where it and its code differ.
    """

    id: str
    title: str
    paper: str
    source: str
    dataset: str
    notes: str = ""
    decisions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """A table of stored values, as its file has it; ``path`` is that file."""

    table: TableInfo
    columns: tuple[ColumnSpec, ...]
    rows: tuple[RowSpec, ...]
    claims: tuple[Claim, ...] = ()
    tolerance: Tolerance | None = None
    provenance: Provenance | None = None
    path: Path | None = field(default=None, compare=False)

    @property
    def recorded(self) -> bool:
        """Whether we measured these values ourselves (proxy scale), not the paper."""
        return self.provenance is not None

    def row(self, key: str) -> RowSpec | None:
        """Return a row by its key; None if there is none."""
        return next((row for row in self.rows if row.key == key), None)

    def column(self, key: str) -> ColumnSpec | None:
        """Return a column by its key; None if there is none."""
        return next((column for column in self.columns if column.key == key), None)

    def stored(self, row_key: str, column_key: str) -> Value | Collapse | None:
        """Return the value or collapse of a cell; None if it is empty."""
        row = self.row(row_key)
        if row is None:
            return None
        column = [other.values.get(column_key) for other in self.rows]
        printed = any(isinstance(value, Value) for value in column)
        expected = printed and row.recipe.get("expected") == COLLAPSE
        return row.values.get(column_key, Collapse() if expected else None)

    def value(self, row_key: str, column_key: str) -> Value | None:
        """Return the value of a cell; None if it has none."""
        stored = self.stored(row_key, column_key)
        return stored if isinstance(stored, Value) else None

    def tolerance_of(self, row_key: str, column_key: str) -> float | None:
        """Return the cell's tolerance: its own, else its column's, else the table's."""
        value, column = self.value(row_key, column_key), self.column(column_key)
        if value is not None and value.tolerance is not None:
            return value.tolerance
        stated = (column.tolerance if column else None) or self.tolerance
        return stated.value if stated else None
