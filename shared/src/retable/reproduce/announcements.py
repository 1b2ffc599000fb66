"""Messages about runs on standard error: before the first, and after each."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from retable import distributed
from retable.reproduce.checks import train_source
from retable.reproduce.pricing import operations, price
from retable.reproduce.run import Run, read_run
from retable.train.options import RunOptions


class Announcements:
    """Says what a command will run, and after each run what it gave and how long the rest takes.

    The time left is that of the ended runs, in proportion to the operations of the encoders in
    pretraining: runs of a table differ in these more than in their evaluations.
    """

    def __init__(self, runs: Sequence[Run], waiting: Sequence[Run], options: RunOptions) -> None:
        # Pricing opens the data, for which a quiet or finished command has no use.
        self.shown = bool(waiting) and not options.quiet and distributed.process_index() == 0
        self.runs, self.waiting, self.options = runs, waiting, options
        costs = {
            run: price(run.recipe, len(train_source(run.recipe, options)))
            for run in (runs if self.shown else ())
        }
        self._steps = sorted({cost.steps for cost in costs.values()})
        self._costs = {run: cost.flops for run, cost in costs.items()}
        self._start = time.monotonic()
        self._ended: list[Run] = []

    def begin(self) -> None:
        """Say what will run."""
        if not self.shown:
            return
        steps, count, jobs = self._steps, len(self.runs), self.options.jobs
        each = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
        complete = count - len(self.waiting)
        work = operations(sum(self._costs.values()))
        print(
            f"{count} {'run' if count == 1 else 'runs'} of {each} steps, {work} in the encoders"
            + (f", {complete} of them complete" if complete else "")
            + (f", {jobs} at a time" if jobs > 1 and len(self.waiting) > 1 else ""),
            file=sys.stderr,
        )

    def end_of(self, run: Run) -> None:
        """Say what a run gave, and how long the others will take."""
        self._ended.append(run)
        if self.shown:
            print(f"{_outcome(run, self.options)}{self._left()}", file=sys.stderr, flush=True)

    def _left(self) -> str:
        ended, waiting = len(self._ended), len(self.waiting)
        if waiting < 2:
            return ""
        done = sum(self._costs[run] for run in self._ended)
        rest = sum(self._costs[run] for run in self.waiting) - done
        said = f"; {ended} of {waiting} runs"
        if ended == waiting or not done:
            return said
        # Of runs side by side others are nearly there too.
        about = "at most" if self.options.jobs > 1 else "about"
        return f"{said}, {about} {_rounded((time.monotonic() - self._start) * rest / done)} left"


def _rounded(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def _outcome(run: Run, options: RunOptions) -> str:
    """Return the first metric of each evaluation of a run, or why it failed."""
    finished = read_run(run, options.folder)
    assert finished is not None
    primary = {f"{each.name}.{next(iter(each.metrics))}" for each in run.evaluations}
    found = [f"{name} {v:.2f}" for name, v in finished.metrics.items() if name in primary]
    outcome = finished.failure or ", ".join(found) or "pretrained"
    return f"{' = '.join(run.rows)} seed {run.seed}: {outcome} ({run.name})"
