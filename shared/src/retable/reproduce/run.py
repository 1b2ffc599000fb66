"""Runs of a table: their recipes, their folders, and their results as the folders hold them."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retable import distributed, files
from retable.code import class_names, classes_of, code_digest
from retable.evaluate.protocol import Evaluation
from retable.settings import NOT_FINITE, fingerprint, to_plain
from retable.train.recipe import PretrainRecipe, build_method
from retable.train.runs import Claim, RunDirectory
from retable.train.shape_inference import shapes_only


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
        return f"{method}-{fingerprint(self.identity)}"

    @property
    def identity(self) -> dict[str, Any]:
        """The recipe and the seed; the classes tell recipes of different scripts apart."""
        classes = class_names(self.recipe)
        return {"pretrain": to_plain(self.recipe), "seed": self.seed, "classes": classes}

    def claim(self, data: Mapping[str, Any]) -> Claim:
        """Return what the run is made of, with ``data`` the description of its images."""
        return Claim(self.identity, data, _code_of(self.recipe))

    def directory(self, folder: Path) -> RunDirectory:
        """Return the run's directory in the folder of all runs."""
        return RunDirectory(folder / self.name)

    def evaluation_folder(self, evaluation: Evaluation, folder: Path) -> Path:
        """Return the folder that holds an evaluation of the run's encoder."""
        name = f"{evaluation.name}-{fingerprint(evaluation, self.seed, class_names(evaluation))}"
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


@functools.cache
def _code_of(recipe: PretrainRecipe) -> str:
    """Return the digest of the code that trains a recipe: the core, its classes and its modules."""
    with shapes_only():
        method = build_method(replace(recipe, weights=None), seed=0)
    return code_digest(classes_of(recipe) | set(map(type, method.modules())))


def evaluation_owner(folder: Path) -> str:
    """Return the name that the files of an evaluation carry: its run's and its own."""
    return f"{folder.parent.parent.name}/{folder.name}"


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """Return the result of an evaluation, None if there is none that is intact.

    It has "metrics", "recipe", and "code" and "data" that it was made of.
    """
    path = folder / "result.json"
    return _intact(path, evaluation_owner(folder)) if path.exists() else None


def _intact(path: Path, owner: str) -> Any:
    """Read a record; None if it is damaged, which is reported on standard error."""
    try:
        return files.read_record(path, owner)
    except files.DamagedFileError as error:
        if distributed.process_index() == 0:
            print(f"{error} It is not used.", file=sys.stderr)
        return None


def read_run(run: Run, folder: Path) -> FinishedRun | None:
    """Read a run from the folder of all runs; None if the training has not ended.

    A damaged file is reported on standard error and counts as missing. A run that ``max_steps``
    stopped inside its first epoch has only its evaluations' metrics.
    """
    directory = run.directory(folder)
    if not directory.result.exists():
        return None
    result = _intact(directory.result, directory.name)
    if result is None:
        return None
    failure = result.get("failed")
    metrics = {} if failure else _training_metrics(result["epochs"], result["monitor"])
    complete = True
    for evaluation in () if failure else run.evaluations:
        found = read_evaluation(run.evaluation_folder(evaluation, folder))
        if found is None:
            complete = False
        else:
            metrics |= _scalars(found["metrics"], f"{evaluation.name}.")
    environment = directory.environment
    return FinishedRun(
        directory.path,
        run.rows,
        run.seed,
        epochs=[_scalars(line) for line in result["epochs"]],
        metrics=metrics,
        failure=failure,
        kind=result.get("kind"),
        complete=complete,
        environment=(environment.exists() and _intact(environment, directory.name)) or {},
    )


def kept_seeds(folder: Path) -> set[int]:
    """Return the seeds of all runs in the folder of all runs."""
    seeds = set()
    for path in folder.glob("*/recipe.json"):
        with contextlib.suppress(files.DamagedFileError, LookupError, TypeError):
            seeds.add(int(files.read_record(path)["recipe"]["seed"]))
    return seeds


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
