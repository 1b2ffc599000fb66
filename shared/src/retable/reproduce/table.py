"""A table as a script states it: rows at the paper's scale, columns, and smaller scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from retable.errors import UserError
from retable.evaluate.ood import OutOfDistribution
from retable.evaluate.protocol import Evaluation
from retable.reproduce.label_lists import LabelLists
from retable.reproduce.run import Derive, FinishedRun, FinishedRuns
from retable.tables import Comparison
from retable.train import health
from retable.train.recipe import PretrainRecipe

SCALES = ("proxy", "paper", "smoke")
TIMES_CHANCE = 3.0
"""Multiple of chance below which a probe finds next to nothing in the features."""


@dataclass(frozen=True)
class TableRow:
    """A training of a row: a pretraining, then evaluations of its encoder."""

    pretrain: PretrainRecipe
    evaluations: tuple[Evaluation, ...]


def training_name(row: str, variant: str = "") -> str:
    """Return the name of a training: ``row``, or ``row/variant`` if the row has several."""
    return f"{row}/{variant}" if variant else row


class TableColumn(Protocol):
    """Reads one column's values from the runs of a table.

    Where a column has ``metrics``, these are the names that it reads, as `Metric` uses them.
    """

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
        """Return the name of the one training."""
        return (training_name(row, self.variant),)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The name of the one metric."""
        return (self.name,)


@dataclass(frozen=True)
class _Pair:
    """A value computed from two columns; the second is read in the row ``over``, if named."""

    first: TableColumn
    second: TableColumn
    over: str = ""

    def value(self, row: str, seed: int, runs: FinishedRuns) -> float | None:
        """Return the computed value, None where either is missing."""
        first = self.first.value(row, seed, runs)
        second = self.second.value(self.over or row, seed, runs)
        return None if first is None or second is None else self._combine(first, second)

    def reads(self, row: str) -> tuple[str, ...]:
        """Return the trainings that both columns read."""
        return self.first.reads(row) + self.second.reads(self.over or row)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names that both columns read."""
        return _metrics_of(self.first) + _metrics_of(self.second)

    def _combine(self, first: float, second: float) -> float:
        raise NotImplementedError


def _metrics_of(column: TableColumn) -> tuple[str, ...]:
    """Return the metrics that a column reads, none if it does not say."""
    return getattr(column, "metrics", ())


class Difference(_Pair):
    """The first column's value minus the second's."""

    def _combine(self, first: float, second: float) -> float:
        return first - second


class Gain(Difference):
    """A row's value of a column minus that of the row ``over``."""

    def __init__(self, column: TableColumn, over: str) -> None:
        super().__init__(column, column, over)


class Ratio(_Pair):
    """The first column's value over the second's, NaN over zero."""

    def _combine(self, first: float, second: float) -> float:
        return first / second if second else math.nan


@dataclass(frozen=True)
class CollapseCriterion:
    """The cells of a table that say ``collapse`` instead of a number, and the criterion.

    A paper that prints the word (Zhu et al., ICCV 2021, supplement, table 5) does not define it.
    The criterion is ours. A run has collapsed if one of these holds; a test whose metrics are
    missing is left out:

    - the loss became NaN or infinite, or the training was stopped because the embedding collapsed;
    - positives do not stand out: over the last epoch their mean score lies within 5 % of the
      negatives' std of the negatives' mean score (`retable.train.health.ALIKE`);
    - the linear probe is below three times chance.

    Attributes:
        rows: Rows whose runs may count as collapsed.
        columns: Columns whose cells say it; others keep the numbers of a collapsed run.
        chance: Accuracy of guessing, in percent, by scale, since data sets differ in their classes.
        probe: Name of the accuracy to compare with chance, as `Metric` uses it.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    chance: Mapping[str, float]
    probe: str = "linear.top1"

    def reason(self, run: FinishedRun, scale: str) -> str | None:
        """Return why a run counts as collapsed, None if it does not."""
        if run.failure is not None:
            return run.failure if run.kind in (health.COLLAPSE, health.DIVERGED) else None
        own = {name.removeprefix("pretrain."): value for name, value in run.metrics.items()}
        if failure := health.failure_reason(own):
            return failure.reason
        if health.scores_alike(own):
            return health.mean_scores(own)
        chance = self.chance[scale]
        if (accuracy := run.metrics.get(self.probe, math.inf)) < TIMES_CHANCE * chance:
            limit = f"less than {TIMES_CHANCE:g} times the {chance:g} % of chance"
            return f"the probe finds {accuracy:.2f} %, {limit}"
        return None


Plot = Callable[[Comparison, FinishedRuns, Path], None]
"""Draws more of a comparison and its runs, into a folder."""


@dataclass(frozen=True)
class Table:
    """A paper's table, as its script states it.

    Attributes:
        script: the script's path; ``<table>.toml`` and ``<table>.proxy.toml`` stand beside it.
        rows: the rows at the paper's scale; ``data`` is filled in from ``--data``. A row that
            prints several trainings side by side maps each variant's name to a `TableRow`.
        columns: how to read each column of the reference from the runs' metrics.
        proxy: shrinks a training to the built-in data set and minutes; None leaves it out.
        smoke: shrinks a training to seconds, or leaves it out.
        images: training images of the paper's data set, for estimates without it.
        subset: the subset of ``--data`` that the table uses, for instance "imagenet100".
        other_data: further data sets that evaluations name, with what they are: an evaluation whose
            ``data.source`` is "places" reads what the option ``--places`` gives at paper scale.
        optional_data: data sets like ``other_data``, without which a command leaves out the
            evaluations that read them; the columns say so.
        label_lists: published lists that evaluations may read their labels from at paper scale.
        not_run: reasons for rows and columns of the reference that this script does not run.
        seeds: seeds run by default, by scale.
        derive: further metrics of a run, from its recipe and its record.
        collapse: which cells say "collapse" instead of a number, and when; None: a training that
            ends early has failed, and every other has its number.
        plots: draw more than the comparison, into the report's folder.
        check_rows: rows that ``nox -s check-tables`` trains and compares with the recorded numbers,
            as ``--rows`` takes them: both rows of the main claim and a baseline.
        first_rows: rows that carry the main claim, which a command that names none trains at proxy
            scale; ``--rows all`` trains the others too. Empty: all.
        facts: reference file of the facts that claims depend on; the numbers recorded beside it say
            which show at proxy scale.
    """

    script: Path
    rows: Mapping[str, TableRow | Mapping[str, TableRow]]
    columns: Mapping[str, TableColumn]
    proxy: Callable[[TableRow], TableRow | None]
    smoke: Callable[[TableRow], TableRow | None]
    images: int
    subset: str | None = None
    other_data: Mapping[str, str] = field(default_factory=dict)
    optional_data: Mapping[str, str] = field(default_factory=dict)
    label_lists: LabelLists | None = None
    not_run: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {"paper": (0, 1, 2), "proxy": (0,), "smoke": (0,)}
    )
    derive: Derive | None = None
    collapse: CollapseCriterion | None = None
    plots: tuple[Plot, ...] = ()
    check_rows: tuple[str, ...] = ()
    first_rows: tuple[str, ...] = ()
    facts: Path | None = None

    def __post_init__(self) -> None:
        known = {name for row in self.rows for name in self.trainings(row)}
        for key, column in self.columns.items():
            if not any(known.intersection(column.reads(row)) for row in self.rows):
                raise UserError(
                    f"`columns` must read trainings of the table, but {key} reads none of "
                    f"{', '.join(sorted(known))}. Name one of them, or leave out the column."
                )
        for field_name in ("check_rows", "first_rows"):
            if unknown := set(getattr(self, field_name)) - {*self.rows, *known}:
                raise UserError(
                    f"`{field_name}` must be rows of the table, got {', '.join(sorted(unknown))}. "
                    f"Name some of {', '.join(self.rows)}."
                )
        if (collapse := self.collapse) is None:
            return
        if unknown := {*collapse.rows, *collapse.columns} - {*self.rows, *self.columns}:
            raise UserError(
                "`collapse` must name rows and columns of the table, got "
                f"{', '.join(sorted(unknown))}. Leave them out."
            )
        if unknown := set(SCALES) - collapse.chance.keys():
            raise UserError(
                f"`collapse.chance` must have every scale, but lacks {', '.join(sorted(unknown))}. "
                "Add the accuracy of guessing there."
            )

    def trainings(self, row: str) -> dict[str, TableRow]:
        """Return what a row trains, by the names of `training_name`."""
        found = self.rows[row]
        if isinstance(found, TableRow):
            return {row: found}
        return {training_name(row, variant): each for variant, each in found.items()}

    def shrunk(self, row: TableRow, scale: str) -> TableRow | None:
        """Return a training at a scale, None if the scale leaves it out."""
        return row if scale == "paper" else (self.proxy if scale == "proxy" else self.smoke)(row)

    def trainings_at(self, row: str, scale: str) -> set[str]:
        """Return the names of a row's trainings that a scale runs."""
        trainings = self.trainings(row).items()
        return {name for name, training in trainings if self.shrunk(training, scale) is not None}

    def collapse_reason(self, training: str, run: FinishedRun, scale: str) -> str | None:
        """Return why a training counts as collapsed; None if it does not, or no row says so."""
        rows = self.collapse.rows if self.collapse else ()
        if self.collapse is None or not any(training in self.trainings(row) for row in rows):
            return None
        return self.collapse.reason(run, scale)

    @property
    def name(self) -> str:
        """The table's name, ``<package>-<table>``."""
        return f"{self.script.parent.name}-{self.script.stem}"

    def columns_of(self, source: str) -> set[str]:
        """Return the columns that need an evaluation on the data set that is called ``source``."""
        trainings = (each for row in self.rows for each in self.trainings(row).values())
        evaluations = {
            evaluation.name
            for training in trainings
            for evaluation in training.evaluations
            if evaluation.data.source == source
        }
        return {
            key
            for key, column in self.columns.items()
            if any(name.partition(".")[0] in evaluations for name in _metrics_of(column))
        }

    def columns_left_out(self, scale: str) -> set[str]:
        """Return the columns that read evaluations which no training has at a scale."""
        every = [each for row in self.rows for each in self.trainings(row).values()]
        names = {evaluation.name for training in every for evaluation in training.evaluations}
        shrunk = (self.shrunk(training, scale) for training in every)
        kept = {each.name for training in shrunk if training for each in training.evaluations}
        return {
            key
            for key, column in self.columns.items()
            if (read := {name.partition(".")[0] for name in _metrics_of(column)} & names)
            and not read & kept
        }

    @property
    def ood_sets(self) -> tuple[str, ...]:
        """Names of the out-of-distribution sets that evaluations name, in order of appearance."""
        trainings = (each for row in self.rows for each in self.trainings(row).values())
        evaluations = (evaluation for training in trainings for evaluation in training.evaluations)
        names = (
            one.name
            for evaluation in evaluations
            if isinstance(evaluation, OutOfDistribution)
            for one in evaluation.sets
        )
        return tuple(dict.fromkeys(names))

    @property
    def proxy_facts(self) -> Path | None:
        """File of the facts' numbers recorded at proxy scale; None if there is none."""
        found = self.facts.with_suffix(".proxy.toml") if self.facts else None
        return found if found and found.exists() else None

    @property
    def reference(self) -> Path:
        """File of the paper's numbers."""
        return self.script.with_suffix(".toml")

    @property
    def proxy_reference(self) -> Path:
        """File of the numbers recorded at proxy scale."""
        return self.script.with_suffix(".proxy.toml")
