"""Shared parts of the benchmarks: options, a timer that interleaves, a table and JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from retable.train.runs import environment

Value = TypeVar("Value")
Seconds = dict[str, list[float]]
"""For each side of a comparison, its time in every round."""


@dataclass(frozen=True)
class Options:
    """What all benchmarks can be told; `nox -s bench -- OPTIONS` passes it to each.

    Attributes:
        device: where to compute.
        quick: fewer rounds.
        dry: sizes at which times mean nothing, to see that every path runs.
        lines: file to which JSON lines are appended.
        cpu_time: count the process's CPU seconds instead of those on the wall.
    """

    device: torch.device
    quick: bool
    dry: bool
    lines: Path
    cpu_time: bool = False

    @property
    def clock(self) -> Callable[[], float]:
        """The clock to read, in seconds."""
        return time.process_time if self.cpu_time else time.perf_counter

    def pick(self, full: Value, quick: Value, dry: Value) -> Value:
        """Choose by how much is asked for."""
        return dry if self.dry else quick if self.quick else full


def parse(description: str) -> Options:
    """Read the command line and set the number of threads."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=found, help="cpu or cuda; the GPU if there is one")
    parser.add_argument("--threads", type=int, help="of torch; all cores by default")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--dry", action="store_true", help="tiny sizes: shows only that it runs")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="one thread, and its CPU seconds: for a CPU that is busy with other programs",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("runs/benchmarks.jsonl"),
        metavar="FILE",
        help="append one JSON object for each figure (runs/benchmarks.jsonl)",
    )
    options = parser.parse_args()
    device = torch.device(options.device)
    if options.cpu_time and device.type != "cpu":
        parser.error("--cpu-time tells nothing about a GPU: leave one of the two out")
    if options.threads or options.cpu_time:
        torch.set_num_threads(1 if options.cpu_time else options.threads)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    return Options(device, options.quick, options.dry, options.json, options.cpu_time)


def wait(device: torch.device) -> None:
    """Wait for all work that was given to the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    call: Callable[[], object],
    device: torch.device,
    clock: Callable[[], float],
) -> float:
    """Return the seconds of one call."""
    wait(device)
    start = clock()
    call()
    wait(device)
    return clock() - start


def interleave(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    options: Options,
    *,
    warmup: int = 2,
    clock: Callable[[], float] | None = None,
) -> Seconds:
    """Time every side once in each round, each round beginning with another side.

    What else the machine does then slows all sides alike, and ratios within a round hardly change
    where times do by tens of percent. ``clock`` is the options' unless given.
    """
    names = list(sides)
    seconds: Seconds = {name: [] for name in names}
    for number in range(warmup + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            spent = timed(sides[name], options.device, clock or options.clock)
            if number >= warmup:
                seconds[name].append(spent)
    return seconds


def total(seconds: Seconds, *names: str) -> list[float]:
    """Add sides, round by round."""
    return [sum(parts) for parts in zip(*(seconds[name] for name in names), strict=True)]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Divide round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


@dataclass(frozen=True)
class Goal:
    """What a figure is compared with: printed beside it, never asserted."""

    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return f"at most {self.at_most:g}"

    def met(self, value: float) -> bool:
        """Whether a value is on the right side."""
        if self.at_least is not None:
            return value >= self.at_least
        assert self.at_most is not None
        return value <= self.at_most


class Report:
    """A table of figures on the terminal, each also a line of JSON.

    Args:
        title: what was timed, and how.
        options: the command line's.
        settings: fields of every JSON line.
    """

    def __init__(self, title: str, options: Options, **settings: object) -> None:
        self.options = options
        self.title = title
        self.settings = settings
        self.rows: list[tuple[str, ...]] = []
        self.lines: list[dict[str, Any]] = []
        # Before our own work: what the machine was doing for others.
        self.load = os.getloadavg()[0]

    def add(
        self,
        what: str,
        values: Sequence[float],
        unit: str = "",
        *,
        name: str = "",
        goal: Goal | None = None,
    ) -> float:
        """Add a figure, the median of values that were measured in rounds, and return it.

        Args:
            what: the figure in words.
            values: one for each round.
            unit: of the values; none for ratios.
            name: of a ratio that is known by one, as R1.
            goal: what it should be.
        """
        median = statistics.median(values)
        low, high = _quartiles(values)
        verdict = "" if goal is None else "met" if goal.met(median) else "MISSED"
        if self.options.dry:
            verdict = ""
        spread = f"{_digits(low)} to {_digits(high)}" if len(values) > 1 else ""
        asked = "" if goal is None else str(goal)
        self.rows.append((name, what, _digits(median), unit, spread, asked, verdict))
        line = {"name": name, "what": what, "median": median, "low": low, "high": high}
        line |= {"rounds": len(values), "unit": unit, "goal": asked, "verdict": verdict}
        self.lines.append(line)
        return median

    def say(self, sentence: str) -> None:
        """Add a line of text below the figures."""
        self.rows.append((sentence,))

    def show(self) -> None:
        """Print the table and append the JSON lines."""
        facts = environment()
        where = facts["processor"]
        if self.options.device.type == "cuda":
            where = torch.cuda.get_device_name(self.options.device)
        heading = f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        print(f"\n{self.title}\n{heading}, load before {self.load:.1f}", end="")
        print(", CPU seconds" if self.options.cpu_time else "", end="")
        print(", dry: the figures mean nothing" if self.options.dry else "")
        _print_table(self.rows)
        common = {"benchmark": self.title, "settings": self.settings, "load": self.load}
        common |= {"threads": torch.get_num_threads(), "device": where, "dry": self.options.dry}
        common |= {"cpu_time": self.options.cpu_time}
        common |= {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "environment": facts}
        self.options.lines.parent.mkdir(parents=True, exist_ok=True)
        with self.options.lines.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line | common) + "\n" for line in self.lines)


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, method="inclusive")
    return low, high


def _digits(value: float) -> str:
    """Write three or four significant digits: ratios near 1 are told apart by thousandths."""
    if 0.9 <= abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    head = ("", "", "median", "", "quartiles", "goal", "")
    figures = [row for row in rows if len(row) > 1]
    widths = [max(len(row[i]) for row in [head, *figures]) for i in range(len(head))]
    for row in [head, *rows]:
        if len(row) == 1:
            print(f"  {row[0]}")
            continue
        cells = [
            cell.rjust(width) if i == 2 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), flush=True)
