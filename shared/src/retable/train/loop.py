"""A training in progress: the steps, and what is logged, kept and watched between them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from retable import progress
from retable.data.loader import Loader
from retable.errors import UserError
from retable.methods.method import Batch, Method, Metrics
from retable.nn import batch_norm
from retable.train import checkpoint, health
from retable.train.cost import Throughput
from retable.train.gradients import GradientLandscape
from retable.train.metrics import Averages, MetricsLog
from retable.train.optim import set_learning_rate
from retable.train.options import RunOptions
from retable.train.recipe import PretrainRecipe
from retable.train.runs import RunDirectory
from retable.train.schedules import learning_rate
from retable.train.traces import TraceLog

Monitor = Callable[[Method, int], dict[str, float]]
"""Called with the method and the number of epochs made; what it returns is logged."""


class TrainingFailedError(UserError):
    """The run cannot go on: its loss is not finite or its embedding has collapsed.

    Attributes:
        kind: `health.DIVERGED` or `health.COLLAPSE`.
        reason: why, in words.
    """

    def __init__(self, failure: health.Failure, directory: RunDirectory, step: int) -> None:
        super().__init__(
            f"Training stopped at step {step}: {failure.reason}; the last good state is in "
            f"{directory.checkpoints}, lower the learning rate or change the method's recipe."
        )
        self.kind, self.reason = failure


@dataclass
class Training:
    """A run in progress: what the loop carries from step to step."""

    recipe: PretrainRecipe
    seed: int
    method: Method
    wrapped: nn.Module
    optimizer: Any
    accelerator: Any
    loader: Loader
    directory: RunDirectory
    log: MetricsLog
    step: int = 0

    def __post_init__(self) -> None:
        self.epoch_means = Averages()
        self.trace = TraceLog(self.log)
        self.gradients = GradientLandscape(self.method.encoder)
        self.scores = health.CollapseDetector()
        self.total = self.recipe.epochs * self.loader.steps_per_epoch
        if self.recipe.max_steps is not None:
            self.total = min(self.total, self.recipe.max_steps)
        self.main = self.accelerator.is_main_process

    def run(self, options: RunOptions, monitor: Monitor | None) -> None:
        """Make the remaining steps."""
        self.wrapped.train()
        throughput = Throughput(
            self.method,
            self.recipe.batch,
            self.recipe.precision,
            [view.size for view in self.recipe.views],
            self.step,
        )
        with progress.bar(self.total, "steps", initial=self.step, shown=not options.quiet) as bar:
            for batch in self.loader.batches(self.step, self.total):
                self.epoch_means.add(self.make_step(batch, options.accumulate))
                bar.update()
                epoch_ends = self.step % self.loader.steps_per_epoch == 0
                last = self.step == self.total
                keep = epoch_ends or last or self.step % options.checkpoint_every == 0
                if not (keep or self.step % options.log_every == 0):
                    continue
                means = self.record_steps(throughput)
                bar.set_description(
                    f"{options.label} epoch {batch.progress.epoch + 1}/{self.recipe.epochs}"
                )
                bar.set_postfix(loss=f"{means['loss']:.3f}", refresh=False)
                if epoch_ends:
                    remarks = self.end_epoch(batch.progress.epoch + 1, monitor)
                    for remark in remarks if self.main and not options.quiet else ():
                        bar.write(f"{options.label} {remark}", file=sys.stderr)
                if keep:
                    self.save()
                throughput.restart(self.step)

    def make_step(self, batch: Batch, accumulate: int) -> Metrics:
        """Differentiate the loss of one batch and move the weights."""
        rate = learning_rate(
            self.recipe.optimizer.schedule,
            self.recipe.optimizer.lr,
            batch.progress.step,
            self.loader.steps_per_epoch,
            self.recipe.epochs,
        )
        set_learning_rate(self.optimizer, rate)
        of_parts: list[Metrics] = []
        for number, part in enumerate(_parts(batch, accumulate), start=1):
            last = number == accumulate
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                output = self.wrapped(part)
                self.accelerator.backward(output.loss / accumulate)
            of_parts.append({"loss": output.loss.detach(), **output.metrics, **output.trace})
        self.accelerator.unscale_gradients(self.optimizer)
        self.gradients.measure()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(batch.progress)
        self.step += 1
        mean = {name: sum(p[name] for p in of_parts) / accumulate for name in of_parts[0]}
        self.trace.add(self.step, {name: mean[name] for name in output.trace})
        return {**mean, "learning_rate": rate}

    def record_steps(self, throughput: Throughput) -> dict[str, float]:
        """Log the means since the last line, and the traces.

        Raises:
            TrainingFailedError: they show that going on is useless.
        """
        means = self.epoch_means.fold()
        if self.main:
            self.log.write("steps", self.step, {**means, **throughput.rates(self.step)})
        self.trace.write()
        if failure := health.failure_reason(means):
            raise TrainingFailedError(failure, self.directory, self.step)
        return means

    def end_epoch(self, epoch: int, monitor: Monitor | None) -> list[str]:
        """Log the epoch's means and its monitor; return what to say of them, at both ends.

        Raises:
            TrainingFailedError: they show that going on is useless.
        """
        means = self.epoch_means.means()
        self.epoch_means = Averages()
        batch_norm.average_statistics(self.method)
        self.gradients.write(self.log, self.step, epoch)
        watched = monitor(self.method, epoch) if monitor else {}
        if self.main:
            self.log.write("epoch", self.step, {"epoch": epoch, **means})
            if watched:
                self.log.write("monitor", self.step, {"epoch": epoch, **watched})
        if failure := self.scores.failure_reason(epoch, self.loader.steps_per_epoch, means):
            raise TrainingFailedError(failure, self.directory, self.step)
        if epoch not in (1, self.recipe.epochs):
            return []
        return [f"epoch {epoch}: {remark}" for remark in health.messages({**means, **watched})]

    def save(self) -> None:
        """Write the training state."""
        batch_norm.average_statistics(self.method)
        if self.main:
            scaler = self.accelerator.scaler
            state = {
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "epoch_means": self.epoch_means.state(),
                "gradients": self.gradients.state(),
                "epochs_alike": self.scores.epochs,
            }
            checkpoint.save(self.directory.checkpoints, self.step, state)
        self.accelerator.wait_for_everyone()

    def restore(self) -> None:
        """Continue from the newest whole state, if there is one."""
        found = checkpoint.load_newest(self.directory.checkpoints)
        if found is None:
            self.step = 0
        else:
            self.step, state = found
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self.epoch_means.restore(state["epoch_means"])
            self.gradients.restore(state["gradients"])
            self.scores.epochs = state["epochs_alike"]
        if self.main:
            self.log.rewind(self.step)

    def summary(self) -> dict[str, Any]:
        """Return what the run measured, without anything that depends on the clock."""
        self.accelerator.wait_for_everyone()
        return {
            "steps": self.step,
            "complete": self.step == self.recipe.epochs * self.loader.steps_per_epoch,
            "unreadable": len(self.loader.source.unreadable),
            "epochs": self.log.read("epoch"),
            "monitor": self.log.read("monitor"),
        }


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    """Cut a batch into equal micro-batches."""
    if count == 1:
        yield batch
        return
    size = len(batch.labels) // count
    for start in range(0, size * count, size):
        yield batch.rows(slice(start, start + size))
