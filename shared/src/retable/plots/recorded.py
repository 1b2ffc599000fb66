"""Recorded scores and gradients of runs for drawing, and labels of the runs.

A run is its folder, or the ``metrics.jsonl`` of any training loop, optionally with a
``recipe.json`` in the same folder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy

from retable.errors import UserError
from retable.files import read_record
from retable.plots.scores import ScoreCurves
from retable.settings import flatten
from retable.train.gradients import Landscape, read_landscape
from retable.train.metrics import MetricsLog
from retable.train.runs import RunDirectory
from retable.train.traces import read_traces

Run = str | os.PathLike[str]
Fields = dict[str, Any]

_VAGUE = {"kind", "name"}
"""Fields that are unclear without the name of their parent."""


def read_scores(run: Run) -> ScoreCurves:
    """Read the score statistics of a run.

    Steps per epoch follow from the log's lines of kind "epoch"; the sphere's dimension and the
    start of a transformation are the fields ``method.dim`` (unless ``method.unit_sphere`` is false)
    and ``transform.start_epoch`` of the recipe, of whatever class it is.

    Raises:
        UserError: it is no run, its log is damaged, or it has no traces.
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
    on_sphere = _field(fields, "method.unit_sphere") is not False
    return ScoreCurves(
        steps=steps,
        values=values,
        steps_per_epoch=epochs[-1][0] // epochs[-1][1] if epochs else None,
        dim=_field(fields, "method.dim") if on_sphere else None,
        start_epoch=_field(fields, "transform.start_epoch"),
    )


def read_gradients(run: Run) -> Landscape:
    """Read the gradient landscape of a run.

    Raises:
        UserError: it is no run, its log is damaged, or it has no gradients.
    """
    log = _log(run)
    with _no_damage(log.path):
        return read_landscape(log.path)


def name_runs(runs: Sequence[Run], labels: Sequence[str] | None = None) -> list[str]:
    """Return a label for each run, by `label_runs` if none are given.

    Raises:
        UserError: a run is given twice, or there is not one distinct label for each run.
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
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}). Give another run, with lines as"
            " retable.train.traces and retable.train.gradients write them."
        ) from None


def _recipe(run: Run) -> Any:
    path = RunDirectory(_log(run).path.parent).recipe
    return read_record(path)["recipe"] if path.is_file() else None


def _field(fields: Fields, suffix: str) -> Any:
    return next((value for path, value in fields.items() if _ends(path, suffix)), None)


def _ends(path: str, suffix: str) -> bool:
    return f".{path}".endswith(f".{suffix}")


def label_runs(recipes: Sequence[Any], names: Sequence[str]) -> list[str]:
    """Return a label for each run, such as ``MoCo, momentum=0.5``.

    A label has the recipe's method and as few further fields as distinguish the runs: first fields
    of the method, then others in alphabetical order, the seed last. Runs with equal recipes also
    have their names.

    Args:
        recipes: content of each run's ``recipe.json``, None for a run without one.
        names: name of each run, for instance its folder; the label of a run without a recipe.
    """
    fields = [dict(flatten(recipe)) if recipe is not None else {} for recipe in recipes]
    methods = [str(_field(own, "method.kind") or "").removesuffix("Recipe") for own in fields]
    labels = [method or name for method, name in zip(methods, names, strict=True)]
    varying = {path for path in set().union(*fields) if _varies(path, fields)}
    for path in sorted(varying, key=_rank):
        if _ends(path, "method.kind"):
            continue
        name = _short_name(path, varying)
        texts = [f"{name}={_text(own[path])}" if path in own else "" for own in fields]
        distinguishes = len(set(zip(labels, texts, strict=True))) > len(set(labels))
        if len(set(filter(None, texts))) > 1 and distinguishes:
            labels = [", ".join(filter(None, both)) for both in zip(labels, texts, strict=True)]
    return [
        f"{label} ({name})" if labels.count(label) > 1 and name != label else label
        for label, name in zip(labels, names, strict=True)
    ]


def _rank(path: str) -> tuple[int, str]:
    if ".method." in f".{path}":
        return 0, path
    return (2, path) if path.rpartition(".")[2] == "seed" else (1, path)


def _varies(path: str, fields: Sequence[Fields]) -> bool:
    """Whether runs that have the field have different values in it."""
    return len({json.dumps(own[path]) for own in fields if path in own}) > 1


def _short_name(path: str, varying: set[str]) -> str:
    """Return the shortest end of the path that no other varying field has."""
    parts = path.split(".")
    for length in range(2 if parts[-1] in _VAGUE else 1, len(parts) + 1):
        name = ".".join(parts[-length:])
        if not any(_ends(other, name) for other in varying - {path}):
            break
    return name


def _text(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False).replace('"', "")
