"""Record of a training: averages, curves and gradients in its log, and reasons to stop it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from retable.train import health
from retable.train.cost import Throughput
from retable.train.gradients import GradientLandscape
from retable.train.metrics import EMPTY, Averages, MetricsLog
from retable.train.traces import TraceLog


class Recorder:
    """Collects the metrics of steps, and writes them to the log in the ``main`` process.

    Nothing waits for the device between two lines of the log.
    """

    def __init__(
        self, log: MetricsLog, encoder: nn.Module, throughput: Throughput, *, main: bool
    ) -> None:
        self.log = log
        self.throughput = throughput
        self.main = main
        self.averages = Averages()
        self.trace = TraceLog(log)
        self.gradients = GradientLandscape(encoder)
        self.collapse = health.CollapseDetector()

    def add(self, step: int, metrics: dict[str, Tensor | float], traced: dict[str, Any]) -> None:
        """Add the metrics of the step that makes ``step`` steps; ``traced`` names its curves."""
        self.averages.add(metrics)
        self.trace.add(step, {name: metrics[name] for name in traced})

    def write_steps(self, step: int) -> tuple[dict[str, float], health.Failure | None]:
        """Log the means since the last line; return them, and the failure that they show."""
        means = self.averages.fold()
        if self.main:
            self.log.write("steps", step, {**means, **self.throughput.rates(step)})
        self.trace.write()
        return means, health.failure_reason(means)

    def write_epoch(
        self, step: int, epoch: int, steps: int, monitored: dict[str, float]
    ) -> tuple[dict[str, float], health.Failure | None]:
        """Log an epoch of ``steps`` steps, counted from 1, as `write_steps` does.

        ``monitored`` are the monitor's metrics. They are among the returned ones.
        """
        means = self.averages.means()
        self.averages = Averages()
        if self.main:
            self.log.write("epoch", step, {"epoch": epoch, **means})
            if monitored:
                self.log.write("monitor", step, {"epoch": epoch, **monitored})
        return {**means, **monitored}, self.collapse.failure_reason(epoch, steps, means)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores of an unfinished epoch."""
        return {
            "epoch_means": self.averages.state(),
            "trace": self.trace.state(),
            "gradients": self.gradients.state(),
            "epochs_alike": self.collapse.epochs,
            "log": self.log.checksum() if self.main else "",
        }

    def fault_of(self, state: dict[str, Any]) -> str:
        """Return why the log cannot continue a checkpoint's `state`, empty if it can."""
        if "trace" not in state:
            return "was written by another version"
        fits = self.log.reaches(state["log"])
        return "" if fits else f"continues a log that is damaged ({self.log.path})"

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's `state`, empty at the start; drop later lines of the log."""
        if state:
            self.averages.restore(state["epoch_means"])
            self.trace.restore(state["trace"])
            self.gradients.restore(state["gradients"])
            self.collapse.epochs = state["epochs_alike"]
        if self.main:
            self.log.rewind_to(state.get("log", EMPTY))
