"""A table as a script states it: rows at the paper's scale, columns, and smaller scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from retable.evaluate.protocol import Evaluation
from retable.reproduce.collapse import CollapseCriterion
from retable.reproduce.run import Derive, FinishedRun, FinishedRuns
from retable.tables import Comparison
from retable.train.recipe import PretrainRecipe

SCALES = ("proxy", "paper", "smoke")


@dataclass(frozen=True)
class TableRow:
    """A training of a row: a pretraining, then evaluations of its encoder."""

    pretrain: PretrainRecipe
    evaluations: tuple[Evaluation, ...]


def training_name(row: str, variant: str = "") -> str:
    """Return the name of a training: its row, with its variant if the row has several.

    >>> training_name("start_2"), training_name("start_2", "res18")
    ('start_2', 'start_2/res18')
    """
    return f"{row}/{variant}" if variant else row


class TableColumn(Protocol):
    """Reads one column's values from the runs of a table."""

    def value(self, row: str, seed: int, runs: FinishedRuns) -> float | None:
        """Return the value of a row's cell for a seed, None without one."""
        ...

    def reads(self, row: str) -> tuple[str, ...]:
        """Return the trainings that a row's cell is read from, possibly with repetitions."""
        ...


@dataclass(frozen=True)
class Metric:
    """A metric of the row itself, times a factor.

    Names: ``pretrain.NAME`` (mean over the last epoch), ``halfway.NAME`` (over the middle epoch),
    ``monitor.NAME`` (kNN of the last epoch), ``monitor_halfway.NAME``, ``EVALUATION.NAME``, and
    ``history.NAME`` for what the table's ``derive`` returns.
    In rows with several trainings, ``variant`` selects one.
    """

    name: str
    factor: float = 1.0
    otherwise: str | None = None
    variant: str = ""

    def value(self, row: str, seed: int, runs: FinishedRuns) -> float | None:
        """Return the scaled metric, or the one called ``otherwise`` if it is missing."""
        run = runs.get(training_name(row, self.variant), {}).get(seed)
        own = run.metrics if run else {}
        found = own.get(self.name, own.get(self.otherwise or ""))
        return None if found is None else found * self.factor

    def reads(self, row: str) -> tuple[str, ...]:
        """Return the one training."""
        return (training_name(row, self.variant),)


@dataclass(frozen=True)
class Gain:
    """A row's value of another column minus that of the row ``over``, for the same seed."""

    column: TableColumn
    over: str

    def value(self, row: str, seed: int, runs: FinishedRuns) -> float | None:
        """Return the difference, None where either row has not run."""
        own = self.column.value(row, seed, runs)
        other = self.column.value(self.over, seed, runs)
        return None if own is None or other is None else own - other

    def reads(self, row: str) -> tuple[str, ...]:
        """Return the trainings that the column reads of both rows."""
        return self.column.reads(row) + self.column.reads(self.over)


@dataclass(frozen=True)
class Difference:
    """One column's value minus another's, of the same row and seed."""

    minuend: TableColumn
    subtrahend: TableColumn

    def value(self, row: str, seed: int, runs: FinishedRuns) -> float | None:
        """Return the difference, None where either is missing."""
        first = self.minuend.value(row, seed, runs)
        second = self.subtrahend.value(row, seed, runs)
        return None if first is None or second is None else first - second

    def reads(self, row: str) -> tuple[str, ...]:
        """Return the trainings that both columns read."""
        return self.minuend.reads(row) + self.subtrahend.reads(row)


@dataclass(frozen=True)
class Ratio:
    """One column's value over another's, of the same row and seed."""

    numerator: TableColumn
    denominator: TableColumn

    def value(self, row: str, seed: int, runs: FinishedRuns) -> float | None:
        """Return the ratio: None where either is missing, NaN over zero."""
        above = self.numerator.value(row, seed, runs)
        below = self.denominator.value(row, seed, runs)
        if above is None or below is None:
            return None
        return above / below if below else math.nan

    def reads(self, row: str) -> tuple[str, ...]:
        """Return the trainings that both columns read."""
        return self.numerator.reads(row) + self.denominator.reads(row)


@dataclass(frozen=True)
class Table:
    """A paper's table, as its script states it.

    Attributes:
        script: the script's path; ``<table>.toml`` and ``<table>.proxy.toml`` stand beside it.
        rows: the rows that are run, at the paper's scale; ``data`` is filled in from ``--data``. A
            row that prints several trainings side by side maps each variant's name to a `TableRow`.
        columns: how to read each column of the reference from the runs' metrics.
        proxy: shrinks a training to the built-in data set and minutes; None: this scale leaves it
            out, its cells are not run.
        smoke: shrinks a training to seconds, or leaves it out.
        images: training images of the paper's data set, for estimates without it.
        subset: the subset of ``--data`` that the table uses, for instance "imagenet100".
        other_data: further data sets that evaluations name, with what they are: an evaluation whose
            ``data.source`` is "places" reads what the option ``--places`` gives at paper scale.
        not_run: reasons for rows and columns of the reference that this script does not run.
        seeds: seeds run by default, by scale.
        derive: further metrics of a run, from its recipe and its record.
        collapse: which cells say "collapse" instead of a number, and when; None: a training that
            ends early has failed, and every other has its number.
        plots: draw more than the comparison, into the report's folder.
        check_rows: rows that ``nox -s check-tables`` trains and compares with the recorded numbers,
            as ``--rows`` takes them: both rows of the main claim and a baseline.
    """

    script: Path
    rows: Mapping[str, TableRow | Mapping[str, TableRow]]
    columns: Mapping[str, TableColumn]
    proxy: Callable[[TableRow], TableRow | None]
    smoke: Callable[[TableRow], TableRow | None]
    images: int
    subset: str | None = None
    other_data: Mapping[str, str] = field(default_factory=dict)
    not_run: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {"paper": (0, 1, 2), "proxy": (0,), "smoke": (0,)}
    )
    derive: Derive | None = None
    collapse: CollapseCriterion | None = None
    plots: tuple[Callable[[Comparison, FinishedRuns, Path], None], ...] = ()
    check_rows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = {name for row in self.rows for name in self.trainings(row)}
        for key, column in self.columns.items():
            if not any(known.intersection(column.reads(row)) for row in self.rows):
                raise ValueError(f"the column {key} reads none of the trainings {sorted(known)}")
        if unknown := set(self.check_rows) - {*self.rows, *known}:
            raise ValueError(f"`check_rows` must be rows of the table, got {sorted(unknown)}.")
        if self.collapse is not None:
            named = {*self.collapse.rows, *self.collapse.columns}
            if unknown := named - {*self.rows, *self.columns}:
                raise ValueError(
                    f"the collapse criterion names {sorted(unknown)}, not in the table"
                )
            if unknown := set(SCALES) - self.collapse.chance.keys():
                raise ValueError(f"the collapse criterion lacks the chance at {sorted(unknown)}")

    def trainings(self, row: str) -> dict[str, TableRow]:
        """Return what a row trains, by the names of `training_name`."""
        found = self.rows[row]
        if isinstance(found, TableRow):
            return {row: found}
        return {training_name(row, variant): each for variant, each in found.items()}

    def collapse_reason(self, training: str, run: FinishedRun, scale: str) -> str | None:
        """Return why a training counts as collapsed; None if it does not, or no row says so."""
        if self.collapse is None:
            return None
        if not any(training in self.trainings(row) for row in self.collapse.rows):
            return None
        return self.collapse.reason(run, scale)

    @property
    def name(self) -> str:
        """The table's name, ``<package>-<table>``."""
        return f"{self.script.parent.name}-{self.script.stem}"

    @property
    def reference(self) -> Path:
        """The paper's numbers."""
        return self.script.with_suffix(".toml")

    @property
    def proxy_reference(self) -> Path:
        """The numbers that we recorded at proxy scale."""
        return self.script.with_suffix(".proxy.toml")
