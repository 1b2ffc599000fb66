"""Recorded scores and gradients of runs for drawing, and labels of the runs.

A run is its folder, or the ``metrics.jsonl`` of any training loop, optionally with a
``recipe.json`` in the same folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy

from retable.errors import UserError
from retable.plots.labels import flatten, label_runs
from retable.plots.score_curves import ScoreCurves
from retable.train.gradients import Landscape, read_landscape
from retable.train.metrics import MetricsLog
from retable.train.runs import RunDirectory, read_json
from retable.train.traces import read_traces

Run = str | os.PathLike[str]


def read_scores(run: Run) -> ScoreCurves:
    """Read the score statistics of a run.

    Steps per epoch follow from the log's lines of kind "epoch"; the sphere's dimension and the
    start of a transformation are the fields ``method.dim`` (unless ``method.unit_sphere`` is false)
    and ``transform.start_epoch`` of the recipe, of whatever class it is.

    Raises:
        UserError: if it is no run, its log is damaged, or it has no traces.
    """
    log = _log(run)
    with _no_damage(log.path):
        traces = read_traces(log.path)
        epochs = [(line["step"], line["epoch"]) for line in log.read("epoch")]
    if not traces:
        raise UserError(
            f"{log.path} has no line of kind trace. Use the log of a method that records its scores"
            " at every step, such as MoCo or SimCLR."
        )
    steps = numpy.array(sorted(set().union(*(trace.steps for trace in traces.values()))))
    values = {}
    for name, trace in traces.items():
        values[name] = numpy.full(len(steps), numpy.nan)
        values[name][numpy.searchsorted(steps, trace.steps)] = trace.values
    fields = dict(flatten(_recipe(run)))
    return ScoreCurves(
        steps=steps,
        values=values,
        steps_per_epoch=epochs[-1][0] // epochs[-1][1] if epochs else None,
        dim=_field(fields, "method.dim")
        if _field(fields, "method.unit_sphere") is not False
        else None,
        start_epoch=_field(fields, "transform.start_epoch"),
    )


def read_gradients(run: Run) -> Landscape:
    """Read the gradient landscape of a run.

    Raises:
        UserError: if it is no run, its log is damaged, or it has no gradients.
    """
    log = _log(run)
    with _no_damage(log.path):
        return read_landscape(log.path)


def name_runs(runs: Sequence[Run], labels: Sequence[str] | None = None) -> list[str]:
    """Return a label for each run, by `label_runs` if none are given.

    Raises:
        UserError: if a run is given twice, or there is not one distinct label for each run.
    """
    paths = [Path(run) for run in runs]
    folders = [path.parent if path.is_file() else path for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"A run is given twice in {', '.join(map(str, paths))}. Give each once.")
    if labels is None:
        names = [folder.resolve().name for folder in folders]
        if len(set(names)) < len(names):
            names = [str(path) for path in paths]
        return label_runs([_recipe(run) for run in runs], names)
    if len(labels) != len(runs) or len(set(labels)) < len(labels):
        raise UserError(
            f"`labels` must be a distinct label for each of {len(runs)} runs, got"
            f" {', '.join(labels)}."
        )
    return list(labels)


def _log(run: Run) -> MetricsLog:
    log = MetricsLog.of(run)
    if not log.path.is_file():
        raise UserError(
            f"{run} is no run. Give the folder of a run, which holds metrics.jsonl, or such a file."
        )
    return log


@contextmanager
def _no_damage(path: Path) -> Iterator[None]:
    """Turn errors of reading a log into a `UserError`."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}). Give another run, with lines as"
            " retable.train.traces and retable.train.gradients write them."
        ) from None


def _recipe(run: Run) -> Any:
    """Return the content of the run's ``recipe.json``; None if there is none."""
    path = RunDirectory(_log(run).path.parent).recipe
    return read_json(path) if path.is_file() else None


def _field(fields: dict[str, Any], suffix: str) -> Any:
    """Return the field whose path ends with ``suffix``; None if the recipe has none."""
    return next(
        (value for path, value in fields.items() if f".{path}".endswith(f".{suffix}")), None
    )
