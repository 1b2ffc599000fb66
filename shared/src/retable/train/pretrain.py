"""One pretraining loop for every method, from recipe to encoder file.

The loop knows batches, the optimizer and the clock; it knows no method. It takes a method's loss,
metrics and encoder.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, Protocol

import torch

from retable import distributed, progress
from retable.code import class_names
from retable.data.loader import Loader
from retable.data.sampler import Sampler
from retable.data.source import Source
from retable.errors import UserError
from retable.extras import require
from retable.methods.method import Batch, Method, Metrics
from retable.nn import batch_norm
from retable.nn.memory_format import trains_channels_last
from retable.precision import autocast_dtype
from retable.settings import fingerprint
from retable.stopping import Deferred, deferred
from retable.train import checkpoint, health
from retable.train.cost import Throughput
from retable.train.metrics import MetricsLog
from retable.train.optim import build_optimizer, set_learning_rate
from retable.train.options import RunOptions
from retable.train.recipe import PretrainRecipe, build_method, check_fit
from retable.train.recorder import Recorder
from retable.train.runs import RunDirectory
from retable.train.schedules import learning_rate
from retable.variables import check_variables
from retable.weights import save_encoder

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others; a stopped one then ends the run with a sentence."""


class BatchLoader(Protocol):
    """Batches of a training by step, see `retable.data.loader.Loader`."""

    @property
    def source(self) -> Source:
        """The images."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""

    def batches(self, first_step: int, last_step: int) -> Iterator[Any]:
        """Yield this process's batches of some steps."""


MakeLoader = Callable[[PretrainRecipe, int, Source, Any, RunOptions, bool], BatchLoader]
"""Makes the loader of a recipe, seed and source on an accelerator; the last argument asks for
channels_last."""

Monitor = Callable[[Method, int], dict[str, float]]
"""Returns metrics to log, given the method and the number of finished epochs."""


class TrainingFailedError(UserError):
    """The run cannot go on: its loss is not finite or its embedding has collapsed."""

    def __init__(self, failure: health.Failure, directory: RunDirectory, step: int) -> None:
        super().__init__(
            f"Training stopped at step {step}: {failure.reason}. The last good checkpoint is in "
            f"{directory.checkpoints}: lower the learning rate or change the method's recipe."
        )
        self.kind, self.reason = failure


def pretrain(
    recipe: PretrainRecipe,
    seed: int,
    source: Source,
    directory: RunDirectory,
    accelerator: Any,
    options: RunOptions | None = None,
    monitor: Monitor | None = None,
) -> dict[str, Any]:
    """Train, or continue training, and write ``encoder.safetensors`` to the directory.

    The newest checkpoint of the directory is continued. ``seed`` is the key of every draw: weights,
    order, views, and the method's own draws. ``accelerator`` is an ``accelerate.Accelerator`` for
    the recipe's precision. ``monitor`` is called as ``monitor(method, finished epochs)`` after each
    epoch on all processes; it must leave the method as it was.

    Returns:
        ``steps``, ``epochs`` (the means of each epoch's metrics) and ``monitor`` (its lines),
        plain values that are bit-equal however often the run was interrupted (one process, CPU).

    Raises:
        TrainingFailedError: the loss is not finite or the embedding has collapsed; the last good
            checkpoint is kept.
    """
    training = train(recipe, seed, source, directory, accelerator, options, monitor)
    metadata = {"recipe": directory.path.name, "seed": seed, "steps": training.step}
    if accelerator.is_main_process:
        save_encoder(directory.encoder, training.method.encoder, recipe.encoder, metadata)
    accelerator.wait_for_everyone()
    return training.summary()


def train(
    recipe: PretrainRecipe,
    seed: int,
    source: Source,
    directory: RunDirectory,
    accelerator: Any,
    options: RunOptions | None = None,
    monitor: Monitor | None = None,
    make_loader: MakeLoader | None = None,
) -> Training:
    """Train as `pretrain` does, but write no encoder; the result holds the trained method.

    ``make_loader`` makes the batches of methods that take other ones than views.
    """
    options = options or RunOptions()
    make_loader = make_loader or view_loader
    training = Training(recipe, seed, source, directory, accelerator, options, make_loader)
    training.restore()
    recorder, per_epoch = training.recorder, training.loader.steps_per_epoch
    recorder.throughput.restart(training.step)
    with (
        deferred() as signals,
        progress.bar(
            training.total, "steps", initial=training.step, shown=not options.quiet
        ) as bar,
    ):
        for batch in training.loader.batches(training.step, training.total):
            training.make_step(batch, options.accumulate)
            bar.update()
            step, epoch = training.step, batch.progress.epoch + 1
            epoch_ends = step % per_epoch == 0
            saves = epoch_ends or step == training.total or step % options.checkpoint_every == 0
            if not (saves or step % options.log_every == 0):
                if signals.requested and accelerator.num_processes == 1:
                    training.stop(signals, options)
                continue
            means, failure = recorder.write_steps(step)
            training.stop_if(failure)
            bar.set_description(f"{options.label} epoch {epoch}/{recipe.epochs}")
            bar.set_postfix(loss=f"{means['loss']:.3f}", refresh=False)
            if epoch_ends:
                batch_norm.average_statistics(training.method)
                recorder.gradients.write(recorder.log, step, epoch)
                monitored = monitor(training.method, epoch) if monitor else {}
                means, failure = recorder.write_epoch(step, epoch, per_epoch, monitored)
                training.stop_if(failure)
                if recorder.main and not options.quiet and epoch in (1, recipe.epochs):
                    for message in health.messages(means, ended=epoch == recipe.epochs):
                        bar.write(f"{options.label} epoch {epoch}: {message}", file=sys.stderr)
            if saves:
                training.save()
            # Several processes stop after the same step, where they have just read their metrics.
            if distributed.any_of(signals.requested, accelerator.device):
                training.stop(signals, options)
            recorder.throughput.restart(step)
    return training


def load_method(recipe: PretrainRecipe, seed: int, directory: RunDirectory) -> Method:
    """Return the method of a run as its newest checkpoint holds it, in evaluation mode on the CPU.

    Heads, key encoder and queue are part of it, which the file of the encoder does not have.

    Raises:
        UserError: there is no usable checkpoint.
    """
    found = checkpoint.load_newest(directory.checkpoints, owner=_owner(recipe, seed))
    if found is None:
        raise UserError(
            f"{directory.checkpoints} must hold a checkpoint of the run, got none. Run the same "
            "command with --fresh to train it again."
        )
    method = build_method(recipe, seed)
    method.load_state_dict(found[1]["method"])
    return method.eval()


def _owner(recipe: PretrainRecipe, seed: int) -> str:
    """Return the name that the checkpoints of a run carry."""
    return fingerprint(recipe, seed, class_names(recipe))


def view_loader(
    recipe: PretrainRecipe,
    seed: int,
    source: Source,
    accelerator: Any,
    options: RunOptions,
    channels_last: bool,
) -> Loader:
    """Return the loader of the recipe's views."""
    return Loader(
        source,
        Sampler(len(source), recipe.batch, seed),
        recipe.views,
        epochs=recipe.epochs,
        workers=options.workers,
        device=accelerator.device,
        resident=options.resident or None,
        compiled=options.compile and accelerator.device.type == "cuda",
        channels_last=channels_last,
    )


class Training:
    """A run in progress: what the loop carries from step to step."""

    def __init__(
        self,
        recipe: PretrainRecipe,
        seed: int,
        source: Source,
        directory: RunDirectory,
        accelerator: Any,
        options: RunOptions,
        make_loader: MakeLoader,
    ) -> None:
        method = build_method(recipe, seed)
        check_fit(recipe, method, accelerator.num_processes, options)
        self.recipe, self.directory, self.accelerator = recipe, directory, accelerator
        self.step = 0
        channels_last = options.channels_last and trains_channels_last(method, accelerator.device)
        self.loader = make_loader(recipe, seed, source, accelerator, options, channels_last)
        if channels_last:
            method = method.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(recipe.optimizer, method)
        with warnings.catch_warnings():
            # accelerate has no other name for it yet; all buffers are equal at the start
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.wrapped, self.optimizer = accelerator.prepare(method, optimizer)
        self.wrapped.train()
        if options.compile:
            for name, module in method.named_children():
                if name.endswith("encoder"):
                    module.compile()  # in place, so that names in the training state do not change
        self.method = method
        main = accelerator.is_main_process
        events = directory.path / "events" if options.tensorboard and main else None
        sizes = [view.size for view in recipe.views]
        throughput = Throughput(method, recipe.batch, recipe.precision, sizes, 0)
        log = MetricsLog(directory.metrics, events)
        self.recorder = Recorder(log, method.encoder, throughput, main=main)
        self.owner = _owner(recipe, seed)

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        steps = self.recipe.epochs * self.loader.steps_per_epoch
        return steps if self.recipe.max_steps is None else min(steps, self.recipe.max_steps)

    def make_step(self, batch: Batch, accumulate: int) -> None:
        """Differentiate the loss of one batch, in micro-batches, and update the weights."""
        rate = learning_rate(
            self.recipe.optimizer.schedule,
            self.recipe.optimizer.lr,
            batch.progress.step,
            self.loader.steps_per_epoch,
            self.recipe.epochs,
        )
        set_learning_rate(self.optimizer, rate)
        of_parts: list[Metrics] = []
        size = len(batch.labels) // accumulate
        for start in range(0, size * accumulate, size):
            part = batch if accumulate == 1 else batch.rows(slice(start, start + size))
            last = len(of_parts) == accumulate - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                output = self.wrapped(part)
                self.accelerator.backward(output.loss / accumulate)
            of_parts.append({"loss": output.loss.detach(), **output.metrics, **output.trace})
        self.accelerator.unscale_gradients(self.optimizer)
        self.recorder.gradients.measure()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(batch.progress)
        self.step += 1
        means = {name: sum(p[name] for p in of_parts) / accumulate for name in of_parts[0]}
        self.recorder.add(self.step, {**means, "learning_rate": rate}, output.trace)

    def stop_if(self, failure: health.Failure | None) -> None:
        """Stop the run for a failure."""
        if failure is not None:
            raise TrainingFailedError(failure, self.directory, self.step)

    def save(self) -> None:
        """Write a checkpoint."""
        batch_norm.average_statistics(self.method)
        self.directory.verify_present()
        if self.recorder.main:
            scaler = self.accelerator.scaler
            state = {
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                **self.recorder.state(),
            }
            checkpoint.save(self.directory.checkpoints, self.step, state, owner=self.owner)
        self.accelerator.wait_for_everyone()

    def stop(self, signals: Deferred, options: RunOptions) -> None:
        """Save the state, say so, and let the signal take effect that has asked to stop."""
        self.save()
        if self.recorder.main and not options.quiet:
            progress.write(f"{options.label}: saved after step {self.step:,}.")
        signals.take_effect()

    def restore(self) -> None:
        """Continue from the newest usable checkpoint, if there is one."""
        found = checkpoint.load_newest(
            self.directory.checkpoints, owner=self.owner, fault_of=self.recorder.fault_of
        )
        self.step, state = found or (0, {})
        if state:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        self.recorder.restore(state)

    def summary(self) -> dict[str, Any]:
        """Return the results of the run, without anything that depends on the clock."""
        self.accelerator.wait_for_everyone()
        log = self.recorder.log
        return {
            "steps": self.step,
            "complete": self.step == self.recipe.epochs * self.loader.steps_per_epoch,
            "unreadable": len(self.loader.source.unreadable),
            "epochs": log.read("epoch"),
            "monitor": log.read("monitor"),
        }


def make_accelerator(precision: str, *, cpu: bool = False) -> Any:
    """Return an ``accelerate.Accelerator`` for a precision; ``cpu`` leaves GPUs unused."""
    require("accelerate", "train", "Training")
    from accelerate.accelerator import Accelerator
    from accelerate.state import PartialState
    from accelerate.utils.dataclasses import DistributedDataParallelKwargs as DdpOptions
    from accelerate.utils.dataclasses import GradientAccumulationPlugin
    from accelerate.utils.environment import parse_flag_from_env

    check_variables(gpus=torch.cuda.device_count(), connected=distributed.is_connected())
    # Connected here, since `Accelerator` leaves out a timeout that equals NCCL's default, also for
    # gloo, whose own is longer. It reads the variable too.
    cpu = cpu or bool(parse_flag_from_env("ACCELERATE_USE_CPU"))  # type: ignore[no-untyped-call]
    PartialState(cpu=cpu, timeout=PATIENCE)
    # The queue is equal on all processes by construction and batch-norm statistics are averaged
    # when they are read: broadcasting buffers would send both at every step for nothing.
    ddp = DdpOptions(broadcast_buffers=False)
    made = Accelerator(
        # What is not given here, accelerate would read from the environment.
        mixed_precision="no" if autocast_dtype(precision) is None else precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        kwargs_handlers=[ddp],
        cpu=cpu,
    )
    if made.num_processes != distributed.process_count():
        raise UserError(
            f"accelerate knows {made.num_processes} of {distributed.process_count()} processes. "
            "Start them by torchrun or accelerate launch."
        )
    return made
