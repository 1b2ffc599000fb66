"""Averages of the scalars that a method returns, and their log file."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retable import distributed, files
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

    def state(self) -> dict[str, Any]:
        """Return sums and pending steps, for the training state.

        Only one process may have pending steps: they are not averaged over processes yet.
        """
        return {"sums": dict(self._sums), "steps": on_cpu(self._steps)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self._sums, self._steps = dict(state["sums"]), list(state["steps"])


def _total(values: list[Tensor | float]) -> Tensor | float:
    tensors = [value for value in values if isinstance(value, Tensor)]
    numbers = float(sum(value for value in values if not isinstance(value, Tensor)))
    if not tensors:
        return numbers
    return torch.stack([value.detach().double() for value in tensors]).sum() + numbers


def on_cpu(steps: Iterable[dict[str, Tensor | float]]) -> list[dict[str, Tensor | float]]:
    """Return the scalars of steps on the CPU, as a file of a training state holds them."""
    return [
        {name: value.cpu() if isinstance(value, Tensor) else value for name, value in one.items()}
        for one in steps
    ]


def read_scalars(values: Iterable[Tensor | float]) -> list[float]:
    """Read scalars in one transfer from the device, tensors averaged over processes."""
    values = list(values)
    tensors = [value.double() for value in values if isinstance(value, Tensor)]
    read = iter(distributed.mean(torch.stack(tensors)).tolist() if tensors else ())
    return [next(read) if isinstance(value, Tensor) else value for value in values]


EMPTY = "00000000"
"""`MetricsLog.checksum` of a log without lines."""


class MetricsLog:
    """``metrics.jsonl``: one JSON object a line, each with the step after which it was written.

    Each line carries a checksum of itself and of all lines before it (``crc``), so that a line that
    was altered, removed, moved or taken from another log is noticed. ``events`` is a folder for a
    copy as TensorBoard events (extra ``tensorboard``).
    """

    def __init__(self, path: Path, events: Path | None = None) -> None:
        self.path = path
        self._end = (0, 0)  # size of the file and checksum of its last line, when last looked at
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
        text, crc = _sealed({"kind": kind, "step": step, **values}, int(self.checksum(), 16))
        files.append_line(self.path, text)
        self._end = self._size(), crc
        if self._writer is not None:
            if events is None:
                events = ((name, step, value) for name, value in values.items())
            for name, place, number in events:
                self._writer.add_scalar(f"{kind}/{name}", number, place)
            self._writer.flush()

    def read(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the lines, of one kind if given, without an unfinished last line.

        Raises:
            DamagedFileError: a line is not what was written, or lines before it are missing.
        """
        return [line for line in self._checked()[0] if kind is None or line["kind"] == kind]

    def verify_complete(self) -> None:
        """Check that the log of a run that has ended has all its lines.

        Raises:
            DamagedFileError: it ends elsewhere than when the training ended.
        """
        facts = self.path.parent / "environment.json"
        if facts.exists() and files.read_record(facts).get("log") not in (None, self.checksum()):
            raise files.DamagedFileError(
                f"{self.path} is damaged: its last lines are missing. Train the run again with "
                "--fresh, or use another run."
            )

    def checksum(self) -> str:
        """Return the checksum of all lines, 8 hexadecimal digits."""
        if self._end[0] != self._size():  # others may write to the file too
            self._end = self._size(), self._checked()[1]
        return f"{self._end[1]:08x}"

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _checked(self) -> tuple[list[dict[str, Any]], int]:
        """Return the lines, without their checksums, and the last checksum."""
        lines, crc = [], 0
        for number, text in enumerate(self._texts(), start=1):
            line, crc = _unsealed(text, crc)
            if line is None:
                raise files.DamagedFileError(
                    f"Line {number} of {self.path} is damaged, or lines before it are missing. "
                    "Train the run again with --fresh, or use another run."
                )
            lines.append(line)
        return lines, crc

    def _texts(self) -> list[str]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return text[: text.rfind("\n") + 1].splitlines()

    def rewind(self, step: int) -> None:
        """Remove the lines after ``step``, whose work will be repeated."""
        lines, _ = self._checked()
        self._keep(sum(line["step"] <= step for line in lines))

    def reaches(self, checksum: str) -> bool:
        """Say whether the intact lines at the beginning include one with this `checksum`."""
        return self._lines_to(checksum) is not None

    def rewind_to(self, checksum: str) -> None:
        """Remove the lines after the one at which `checksum` was this, which it `reaches`."""
        lines = self._lines_to(checksum)
        assert lines is not None
        self._keep(lines)

    def _lines_to(self, checksum: str) -> int | None:
        crc, wanted = 0, int(checksum, 16)
        texts = self._texts()
        for number in range(len(texts) + 1):
            if crc == wanted:
                return number
            line, crc = _unsealed(texts[number], crc) if number < len(texts) else (None, crc)
            if line is None:
                break
        return None

    def _keep(self, lines: int) -> None:
        if self.path.exists():
            kept = self._texts()[:lines]
            files.write_text(self.path, "".join(f"{text}\n" for text in kept))
            self._end = (0, 0) if not kept else (-1, 0)


def _sealed(line: dict[str, Any], before: int) -> tuple[str, int]:
    """Return a line as text with its checksum, which continues the one ``before``."""
    crc = zlib.crc32(json.dumps(line).encode(), before)
    return json.dumps({**line, "crc": f"{crc:08x}"}), crc


def _unsealed(text: str, before: int) -> tuple[dict[str, Any] | None, int]:
    """Return the line of a text of `_sealed`, None if it does not follow ``before``."""
    try:
        line = json.loads(text)
        crc = line.pop("crc")
        intact = bool(_sealed(line, before)[0] == text and "kind" in line and "step" in line)
        return (line, int(crc, 16)) if intact else (None, before)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None, before


def rounded(value: float) -> float:
    """Round to six significant digits, which is enough for a curve."""
    return float(f"{value:.6g}")
