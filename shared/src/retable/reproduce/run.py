"""Runs of a table: their recipes, their folders, and their results as the folders hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retable.evaluate.protocol import Evaluation
from retable.settings import NOT_FINITE, fingerprint
from retable.train.metrics import MetricsLog
from retable.train.recipe import PretrainRecipe
from retable.train.runs import RunDirectory, read_json


@dataclass(frozen=True)
class Run:
    """One pretraining with one seed, and the evaluations of its encoder that the rows need.

    Attributes:
        rows: Names of the table's trainings that this run serves (`training_name`).
    """

    recipe: PretrainRecipe
    seed: int
    evaluations: tuple[Evaluation, ...]
    rows: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's folder name: the method and a hash of everything that decides the numbers."""
        method = type(self.recipe.method).__name__.removesuffix("Recipe").lower()
        return f"{method}-{fingerprint(self.recipe, self.seed)}"

    @property
    def identity(self) -> dict[str, object]:
        """Content of the run's ``recipe.json``."""
        return {"pretrain": self.recipe, "seed": self.seed}

    def directory(self, folder: Path) -> RunDirectory:
        """Return the run's directory in the folder of all runs."""
        return RunDirectory(folder / self.name)

    def evaluation_folder(self, evaluation: Evaluation, folder: Path) -> Path:
        """Return the folder that holds an evaluation of the run's encoder."""
        name = f"{evaluation.name}-{fingerprint(evaluation, self.seed)}"
        return self.directory(folder).path / "evaluations" / name


@dataclass(frozen=True)
class FinishedRun:
    """A run whose training has ended, as its folder records it.

    Attributes:
        folder: Folder of the run. `retable.train.traces.read_traces` reads the traces of every step
            from it, `retable.train.gradients.read_landscape` the gradients of every epoch.
        rows: Names of the table's trainings that the run serves.
        seed: Seed of the run.
        epochs: Means of each epoch, with ``epoch`` among their names; of a failed training, the
            epochs before the failure.
        metrics: Metrics by the names that `Metric` uses; empty if the training failed.
        failure: Why the training failed, None if it did not.
        kind: Kind of the failure (`TrainingFailedError`), None if the training did not fail.
        complete: Whether nothing is left to do: every evaluation has ended, or the training failed.
        environment: Versions, hardware, commit and digest of the code.
    """

    folder: Path
    rows: tuple[str, ...] = ()
    seed: int = 0
    epochs: Sequence[Mapping[str, float]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None
    kind: str | None = None
    complete: bool = True
    environment: Mapping[str, Any] = field(default_factory=dict)


FinishedRuns = Mapping[str, Mapping[int, FinishedRun]]
"""Finished runs by the name of the training and the seed."""

Derive = Callable[[PretrainRecipe, FinishedRun], Mapping[str, float]]
"""Returns further metrics of a complete run; their names get the prefix ``history.``."""


def read_run(run: Run, folder: Path) -> FinishedRun | None:
    """Read a run from the folder of all runs; None if the training has not ended.

    A run that ``max_steps`` stopped inside its first epoch has only its evaluations' metrics.
    """
    directory = run.directory(folder)
    if not directory.result.exists():
        return None
    result = read_json(directory.result)
    failure = result.get("failed")
    lines = result["epochs"] if failure is None else MetricsLog(directory.metrics).read("epoch")
    metrics = {} if failure else _training_metrics(lines, result["monitor"])
    complete = True
    for evaluation in () if failure else run.evaluations:
        path = run.evaluation_folder(evaluation, folder) / "result.json"
        if path.exists():
            metrics |= _scalars(read_json(path), f"{evaluation.name}.")
        else:
            complete = False
    return FinishedRun(
        directory.path,
        run.rows,
        run.seed,
        epochs=[_scalars(line) for line in lines],
        metrics=metrics,
        failure=failure,
        kind=result.get("kind"),
        complete=complete,
        environment=read_json(directory.environment) if directory.environment.exists() else {},
    )


def read_runs(runs: Iterable[Run], folder: Path, derive: Derive | None = None) -> FinishedRuns:
    """Read all runs whose training has ended, with the metrics that ``derive`` adds."""
    found: dict[str, dict[int, FinishedRun]] = {}
    for run in runs:
        finished = read_run(run, folder)
        if finished is None:
            continue
        if finished.metrics and derive is not None:
            derived = {f"history.{n}": v for n, v in derive(run.recipe, finished).items()}
            finished = replace(finished, metrics={**finished.metrics, **derived})
        for name in run.rows:
            found.setdefault(name, {})[run.seed] = finished
    return found


def _training_metrics(
    epochs: Sequence[Mapping[str, Any]], monitor: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if epochs:
        metrics |= _scalars(epochs[-1], "pretrain.")
        metrics |= _scalars(epochs[(len(epochs) - 1) // 2], "halfway.")
    if monitor:
        last = monitor[-1]
        halfway = next(line for line in monitor if 2 * line["epoch"] >= last["epoch"])
        metrics |= _scalars(last, "monitor.") | _scalars(halfway, "monitor_halfway.")
    return metrics


def _scalars(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    return {
        f"{prefix}{name}": float(value)
        for name, value in line.items()
        if isinstance(value, int | float) or value in NOT_FINITE
    }
