"""Traces: scalars of every single step, for curves over steps.

They stay on the device and are written to ``metrics.jsonl`` many steps at a time: three scalars of
49,500 steps take about 2 MB.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from retable import distributed
from retable.errors import UserError
from retable.train.metrics import MetricsLog, on_cpu, read_scalars, rounded


class TraceLog:
    """Collects named scalars step by step and writes them as lines of kind "trace".

    A line holds ``first`` and ``step``, its first and last step, and for each name the values of
    all steps between them, rounded to six significant digits; null marks a step without a value.

    In your own loop::

        with TraceLog("run/metrics.jsonl") as trace:
            for step, batch in enumerate(batches, start=1):
                ...
                trace.add(step, score_statistics(positives, negatives).named())
                if step % 100 == 0:
                    trace.write()

    All processes add and write the same names and steps: tensors are averaged over processes, in
    one transfer, and the first process writes the file.
    ``log`` is a log, a path of a ``metrics.jsonl``, or the folder that contains it.
    """

    def __init__(self, log: MetricsLog | str | os.PathLike[str]) -> None:
        self._log = MetricsLog.of(log)
        self._steps: dict[int, dict[str, Tensor | float]] = {}
        self._newest: int | None = None

    def add(self, step: int, scalars: Mapping[str, Tensor | float]) -> None:
        """Keep one step's scalars, 0-dim tensors or numbers; never waits for the device."""
        if self._newest is not None and step <= self._newest:
            raise UserError(
                f"`step` must be greater than the previous step {self._newest}, got {step}. Call "
                "rewind(step) before steps are repeated."
            )
        self._newest = step
        self._steps[step] = {
            name: value.detach() if isinstance(value, Tensor) else float(value)
            for name, value in scalars.items()
        }

    def write(self) -> None:
        """Write the steps added since the last call as one line, if they have scalars."""
        cells = [(name, step, v) for step, kept in self._steps.items() for name, v in kept.items()]
        curves: dict[str, dict[int, float]] = {}
        for (name, step, _), value in zip(cells, read_scalars(v for *_, v in cells), strict=True):
            curves.setdefault(name, {})[step] = rounded(value)
        steps = range(min(self._steps, default=0), max(self._steps, default=-1) + 1)
        self._steps = {}
        if not curves or distributed.process_index() > 0:
            return
        columns = {name: [curve.get(step) for step in steps] for name, curve in curves.items()}
        points = ((name, step, y) for name, curve in curves.items() for step, y in curve.items())
        self._log.write("trace", steps[-1], {"first": steps[0], **columns}, points)

    def state(self) -> tuple[list[int], list[dict[str, Tensor | float]]]:
        """Return the steps that are not written yet, for the training state."""
        return list(self._steps), on_cpu(self._steps.values())

    def restore(self, state: tuple[list[int], list[dict[str, Tensor | float]]]) -> None:
        """Continue from a `state`."""
        self._steps = dict(zip(*state, strict=True))
        self._newest = max(self._steps, default=None)

    def rewind(self, step: int) -> None:
        """Remove everything after ``step``, when training continues from a checkpoint of that step.

        Call `write` before each checkpoint: a line is kept or removed as a unit.
        """
        self._steps, self._newest = {}, step
        if distributed.process_index() == 0:
            self._log.rewind(step)

    def __enter__(self) -> TraceLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error another process may never reach the average that this would wait for.
        if kind is None or distributed.process_count() == 1:
            self.write()


class Trace(NamedTuple):
    """A curve: ascending steps and their values."""

    steps: list[int]
    values: list[float]


def read_traces(run: str | os.PathLike[str]) -> dict[str, Trace]:
    """Read the traces of a run, name -> (steps, values), from its folder or its ``metrics.jsonl``.

    Steps without a value are left out. Where lines overlap, as after a restart without `rewind`,
    the later line counts.
    """
    log = MetricsLog.of(run)
    if not log.path.exists():
        raise UserError(
            f"{log.path} does not exist. Pass the folder of a run or its metrics.jsonl."
        )
    log.verify_complete()
    curves: dict[str, dict[int, float]] = {}
    for line in log.read("trace"):
        first = line["first"]
        for name in line.keys() - {"kind", "step", "first"}:
            numbers = enumerate(line[name], start=first)
            curves.setdefault(name, {}).update((at, y) for at, y in numbers if y is not None)
    return {
        name: Trace(sorted(curve), [curve[step] for step in sorted(curve)])
        for name, curve in sorted(curves.items())
    }
