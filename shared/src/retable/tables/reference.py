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

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retable.domains import Count, Decimals, Finite, NonNegative, Positive, Seed, Words
from retable.settings import validate_fields
from retable.tables.statistics import Spread, mean, spread_of

Origin = Literal["cited", "reimplemented", "run", "extra"]
"""Origin of a row: quoted by the paper from others, rerun by its authors, the paper's own, or added
by us (nothing to compare with)."""

COLLAPSE = "collapse"
"""Value of ``recipe.expected`` for a row that collapses."""


def _require(fits: bool, name: str, expected: str, value: object) -> None:
    if not fits:
        raise ValueError(f"`{name}` must be {expected}, got {value!r}")


def _require_rounded(name: str, stated: float, found: float) -> None:
    """Check that a stated number is another one, rounded to the decimals that it is stated with."""
    text = repr(stated)
    decimals = len(text.partition(".")[2]) if "e" not in text else 0
    slack = 0.51 * 10.0**-decimals + 1e-7 * abs(stated)
    _require(abs(stated - found) <= slack, name, f"{found:.8g} as in per_seed", stated)


@dataclass(frozen=True)
class Tolerance:
    """Largest difference of a mean from the reference that still matches, with its reason."""

    value: NonNegative
    reason: Words

    def __post_init__(self) -> None:
        validate_fields(self)


@dataclass(frozen=True)
class StatedSpread(Spread):
    """A column's run-to-run std with its source."""

    std: NonNegative
    degrees: Positive
    reason: Words

    def __post_init__(self) -> None:
        validate_fields(self)


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

    key: Words
    label: Words
    unit: str
    higher_is_better: bool | None = field(default=None, kw_only=True)
    decimals: Decimals
    spread: StatedSpread | None = None
    tolerance: Tolerance | None = None
    not_run: str = ""
    unjudged: str = ""


@dataclass(frozen=True)
class Value:
    """A stored value: a mean, its std over ``runs``, and each run if it is known."""

    value: Finite
    std: NonNegative | None = None
    runs: Count | None = None
    per_seed: tuple[Finite, ...] = ()
    tolerance: NonNegative | None = None

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.per_seed:
            same = self.runs in (None, len(self.per_seed))
            _require(same, "runs", f"the {len(self.per_seed)} of per_seed", self.runs)
            _require_rounded("value", self.value, mean(self.per_seed))
            spread = spread_of(self.per_seed)
            if self.std is not None and spread is not None:
                _require_rounded("std", self.std, spread.std)

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

    collapsed: Count | None = None
    runs: Count | None = None

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

    key: Words
    label: Words
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

    Better is lower where the column says so, otherwise higher. With a bound, the claim is about the
    number itself, in the column's own sign: the value of ``better`` minus that of ``than``, or the
    value of ``better`` alone where ``than`` is left out, is at least or at most so large.

    Attributes:
        key: name of a fact that other claims depend on; several claims may share it. Such a fact
            shows where all of them are supported.
        depends_on: facts that must show before this claim can be tested, by their keys.
        source: where it is printed, empty if the table's own source says so.
    """

    text: Words
    better: Words
    than: str = ""
    column: Words = field(kw_only=True)
    margin: Finite = field(kw_only=True)
    at_least: Finite | None = field(default=None, kw_only=True)
    at_most: Finite | None = field(default=None, kw_only=True)
    key: str = field(default="", kw_only=True)
    depends_on: tuple[Words, ...] = field(default=(), kw_only=True)
    source: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        validate_fields(self)
        bounded = self.at_least is not None or self.at_most is not None
        _require(bounded or bool(self.than), "than", "a row where there is no bound", self.than)
        ordered = self.at_least is None or self.at_most is None or self.at_least <= self.at_most
        _require(ordered, "at_least", f"at most at_most = {self.at_most}", self.at_least)
        none = not (bounded and self.margin)
        _require(none, "margin", "0 where a bound is stated", self.margin)

    @property
    def bounded(self) -> bool:
        """Whether the claim is about a number and not about an order."""
        return self.at_least is not None or self.at_most is not None


@dataclass(frozen=True)
class Provenance:
    """Command, seeds, commit, date and machine of a recorded reference."""

    command: str
    seeds: tuple[Seed, ...]
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

    id: Words
    title: Words
    paper: Words
    source: Words
    dataset: Words
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
