"""Averages of the scalars that a method returns, and their log file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retable import distributed, files
from retable.errors import UserError
from retable.extras import require


class Averages:
    """Running means of named scalars, kept on the device until they are read.

    Adding never waits for the device. The sums are float64, so that, up to rounding, the mean over
    an epoch does not depend on how often it was interrupted.
    """

    def __init__(self) -> None:
        self._steps: list[dict[str, Tensor | float]] = []
        self._sums: dict[str, tuple[float, int]] = {}  # and the number of steps

    def add(self, metrics: dict[str, Tensor | float]) -> None:
        """Add the scalars of a step."""
        self._steps.append(metrics)

    def fold(self) -> dict[str, float]:
        """Add the pending steps to the sums and return their means; reads the device once."""
        if not self._steps:
            return {}
        # A step may lack a metric (an analysis every n steps); its mean is over the other steps.
        names = sorted(set().union(*self._steps))
        columns = {n: [step[n] for step in self._steps if n in step] for n in names}
        sums = dict(zip(names, read_scalars(map(_total, columns.values())), strict=True))
        for name, total in sums.items():
            before, steps = self._sums.get(name, (0.0, 0))
            self._sums[name] = before + total, steps + len(columns[name])
        self._steps.clear()
        return {name: total / len(columns[name]) for name, total in sums.items()}

    def means(self) -> dict[str, float]:
        """Return the means over all folded steps."""
        return {name: total / steps for name, (total, steps) in self._sums.items()}

    def state(self) -> dict[str, tuple[float, int]]:
        """Return the sums, for the training state; pending steps must be folded."""
        return dict(self._sums)

    def restore(self, state: dict[str, tuple[float, int]]) -> None:
        """Continue from the sums of `state`."""
        self._sums = dict(state)
        self._steps.clear()


def _total(values: list[Tensor | float]) -> Tensor | float:
    tensors = [value for value in values if isinstance(value, Tensor)]
    numbers = float(sum(value for value in values if not isinstance(value, Tensor)))
    if not tensors:
        return numbers
    return torch.stack([value.detach().double() for value in tensors]).sum() + numbers


def read_scalars(values: Iterable[Tensor | float]) -> list[float]:
    """Read scalars in one transfer from the device, tensors averaged over processes."""
    values = list(values)
    tensors = [value.double() for value in values if isinstance(value, Tensor)]
    read = iter(distributed.mean(torch.stack(tensors)).tolist() if tensors else ())
    return [next(read) if isinstance(value, Tensor) else value for value in values]


class MetricsLog:
    """``metrics.jsonl``: one JSON object a line, each with the step after which it was written.

    ``events`` is a folder for a copy as TensorBoard events (extra ``tensorboard``).
    """

    def __init__(self, path: Path, events: Path | None = None) -> None:
        self.path = path
        self._writer: Any = None
        if events is not None:
            require("tensorboard", "tensorboard", "The option --tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(events))

    @classmethod
    def of(cls, place: MetricsLog | str | os.PathLike[str]) -> MetricsLog:
        """Return the log in this file, or ``metrics.jsonl`` in this folder; a log as it is."""
        if isinstance(place, MetricsLog):
            return place
        path = Path(place)
        in_file = path.is_file() or path.suffix == ".jsonl"
        return cls(path if in_file else path / "metrics.jsonl")

    def write(
        self,
        kind: str,
        step: int,
        values: dict[str, Any],
        events: Iterable[tuple[str, int, float]] | None = None,
    ) -> None:
        """Append one line about ``values``, numbers or other JSON values, after ``step`` steps.

        ``kind`` is "steps", "epoch", "monitor", "trace" (`retable.train.traces`) or "gradients"
        (`retable.train.gradients`); ``events`` are (name, step, number) of each TensorBoard event,
        where ``values`` are not plain numbers.
        """
        files.append_line(self.path, json.dumps({"kind": kind, "step": step, **values}))
        if self._writer is not None:
            if events is None:
                events = ((name, step, value) for name, value in values.items())
            for name, place, number in events:
                self._writer.add_scalar(f"{kind}/{name}", number, place)
            self._writer.flush()

    def read(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the lines, of one kind if given, without an unfinished last line."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        complete = text[: text.rfind("\n") + 1].splitlines()
        lines = [self._parse(line, number) for number, line in enumerate(complete, start=1)]
        return [line for line in lines if kind is None or line["kind"] == kind]

    def _parse(self, text: str, number: int) -> dict[str, Any]:
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or "kind" not in line:
            raise UserError(
                f"Line {number} of {self.path} is damaged: expected a JSON object with a kind. "
                "Remove it or use another run."
            )
        return line

    def rewind(self, step: int) -> None:
        """Remove the lines after ``step``, whose work will be repeated."""
        if self.path.exists():
            kept = [json.dumps(line) for line in self.read() if line["step"] <= step]
            files.write_text(self.path, "".join(f"{line}\n" for line in kept))


def rounded(value: float) -> float:
    """Round to six significant digits, which is enough for a curve."""
    return float(f"{value:.6g}")
