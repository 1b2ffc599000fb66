"""What finished runs say: their figures and curves, read from the files that they left."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from retable.reproduce.plan import Run
from retable.reproduce.setting import Setting, directory_of, evaluation_directory
from retable.reproduce.table import History
from retable.train.metrics import MetricsLog
from retable.train.runs import code_digest, read_json

_NOT_FINITE = ("nan", "inf", "-inf")


def storable(value: Any) -> Any:
    """Write numbers that are not finite, which JSON does not have, as words.

    >>> storable({"gap": float("nan"), "steps": [1, 2.5]})
    {'gap': 'nan', 'steps': [1, 2.5]}
    """
    if isinstance(value, Mapping):
        return {name: storable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [storable(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def collect(run: Run, setting: Setting) -> dict[str, float]:
    """Return a complete run's figures by name; empty if its training failed or has not ended.

    A run that ``max_steps`` stopped inside its first epoch has those of its evaluations alone.
    """
    result = directory_of(run, setting).finished()
    if result is None or "failed" in result:
        return {}
    epochs, monitor = result["epochs"], result["monitor"]
    figures: dict[str, float] = {}
    for prefix, line in (
        ("pretrain", epochs[-1:]),
        ("halfway", epochs[(len(epochs) - 1) // 2 :][:1]),
        ("monitor", monitor[-1:]),
        ("monitor_halfway", _halfway(monitor)),
    ):
        figures |= {f"{prefix}.{name}": value for name, value in _scalars(*line)}
    for evaluation in run.evaluations:
        path = evaluation_directory(run, evaluation, setting) / "result.json"
        if path.exists():
            values = read_json(path)
            figures |= {f"{evaluation.name}.{name}": value for name, value in _scalars(values)}
    return figures


def failure(run: Run, setting: Setting) -> str | None:
    """Return why a run's training failed, None if it did not."""
    result = directory_of(run, setting).finished() or {}
    return result.get("failed")


def ending(run: Run, setting: Setting) -> str | None:
    """Return of what kind a failure is, as `TrainingFailedError` says; None if there was none."""
    result = directory_of(run, setting).finished() or {}
    return result.get("kind")


def made_by_other_code(run: Run, setting: Setting) -> bool:
    """Say whether the run was trained by sources that differ from today's."""
    path = directory_of(run, setting).environment
    known = path.exists() and json.loads(path.read_text()).get("code")
    return bool(known) and known != code_digest(run.recipe.method, run.recipe.encoder)


def history(run: Run, setting: Setting) -> History:
    """Return what a run has recorded over time, also where its training failed."""
    directory = directory_of(run, setting)
    lines = MetricsLog(directory.metrics).read("epoch")
    return History([dict(_scalars(line)) for line in lines], directory.path, collect(run, setting))


def _halfway(monitor: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the monitor's first line from the middle of the run on, in a list; empty without."""
    return [line for line in monitor if 2 * line["epoch"] >= monitor[-1]["epoch"]][:1]


def _scalars(line: Mapping[str, Any] = MappingProxyType({})) -> Iterator[tuple[str, float]]:
    return (
        (k, float(v)) for k, v in line.items() if isinstance(v, int | float) or v in _NOT_FINITE
    )
