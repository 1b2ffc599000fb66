"""One pretraining loop for every method, from recipe to encoder file.

The loop knows batches, the optimizer and the clock; it knows no method. What it needs from one is
its loss, its scalars and its encoder.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from retable import distributed
from retable.data.loader import Loader
from retable.data.sampler import Sampler
from retable.data.source import Source
from retable.errors import UserError
from retable.methods.method import Method
from retable.precision import accelerate_mode, autocast_dtype
from retable.train.loop import Execution, Monitor, Training
from retable.train.metrics import MetricsLog
from retable.train.optim import build_optimizer
from retable.train.recipe import PretrainRecipe, build_method
from retable.train.runs import RunDirectory
from retable.weights import save_encoder


def pretrain(
    recipe: PretrainRecipe,
    seed: int,
    source: Source,
    directory: RunDirectory,
    accelerator: Any,
    execution: Execution | None = None,
    monitor: Monitor | None = None,
) -> dict[str, Any]:
    """Train, or continue training, and leave ``encoder.safetensors`` in the directory.

    Args:
        recipe: what decides the numbers.
        seed: key of every draw: weights, order, views, and what the method draws.
        source: the training images.
        directory: where states, log and encoder go; a state found there is continued from.
        accelerator: an ``accelerate.Accelerator`` made for the recipe's precision.
        execution: how to carry it out; the defaults of `Execution` if None.
        monitor: called as ``monitor(method, epochs made)`` after each epoch on all processes; what
            it returns is logged. It leaves the method as it was.

    Returns:
        ``steps``, ``epochs`` (the means of every epoch's scalars) and ``monitor`` (its lines),
        plain values that are equal to the bit however often the run was interrupted (one process,
        CPU).

    Raises:
        TrainingFailedError: the loss is not finite or the embedding has collapsed; the last good
            state is kept.
        UserError: batch, groups and processes do not fit together.
    """
    training = train(recipe, seed, source, directory, accelerator, execution, monitor)
    encoder_metadata = {"recipe": directory.path.name, "seed": seed, "steps": training.step}
    if accelerator.is_main_process:
        save_encoder(directory.encoder, training.method.encoder, recipe.encoder, encoder_metadata)
    accelerator.wait_for_everyone()
    return training.summary()


def train(
    recipe: PretrainRecipe,
    seed: int,
    source: Source,
    directory: RunDirectory,
    accelerator: Any,
    execution: Execution | None = None,
    monitor: Monitor | None = None,
) -> Training:
    """Train as `pretrain` does, without writing an encoder; the result holds the trained method."""
    execution = execution or Execution()
    method = build_method(recipe, seed)
    check_fit(recipe, method, accelerator.num_processes, execution)
    loader = Loader(
        source,
        Sampler(len(source), recipe.batch, seed),
        recipe.views,
        workers=execution.workers,
        device=accelerator.device,
        resident=execution.resident or None,
        compiled=execution.compile and accelerator.device.type == "cuda",
    )
    if execution.channels_last:
        method = method.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(recipe.optimizer, method)
    with warnings.catch_warnings():
        # accelerate knows no other name for it yet; all processes' buffers are equal at the start
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrapped, optimizer = accelerator.prepare(method, optimizer)
    if execution.compile:
        _compile_encoders(method)
    events = directory.path / "events" if execution.tensorboard else None
    log = MetricsLog(directory.metrics, events if accelerator.is_main_process else None)
    training = Training(
        recipe, seed, method, wrapped, optimizer, accelerator, loader, directory, log
    )
    training.restore()
    training.run(execution, monitor)
    return training


def make_accelerator(precision: str, *, cpu: bool = False) -> Any:
    """Return an ``accelerate.Accelerator``: processes, mixed precision and DDP.

    Args:
        precision: "float32", "bf16" or "fp16".
        cpu: use the CPU where there is a GPU.
    """
    from accelerate.accelerator import Accelerator
    from accelerate.utils.dataclasses import DistributedDataParallelKwargs

    # The queue is equal on all processes by construction and batch-norm statistics are averaged
    # when they are read: broadcasting buffers would send both at every step for nothing.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
    made = Accelerator(mixed_precision=accelerate_mode(precision), kwargs_handlers=[ddp], cpu=cpu)
    if made.num_processes != distributed.process_count():
        raise UserError(
            f"accelerate knows {made.num_processes} of {distributed.process_count()} processes: "
            "start them by torchrun or accelerate launch."
        )
    return made


def check_fit(recipe: PretrainRecipe, method: Method, processes: int, execution: Execution) -> None:
    """Check that the batch can be split over processes, micro-batches and batch-norm groups.

    Raises:
        UserError: it cannot, or the recipe names what is not there.
    """
    autocast_dtype(recipe.precision)
    for name in ("epochs", "batch", "max_steps"):
        value = getattr(recipe, name)
        if value is not None and value < 1:
            raise UserError(f"The recipe's {name} is {value}: expected at least 1.")
    if execution.accumulate > 1 and not method.accumulates:
        raise UserError(
            f"{type(method).__name__} contrasts a whole batch at once, so its gradient cannot be "
            "accumulated over parts: expected --accumulate 1, use more processes instead."
        )
    local, remainder = divmod(recipe.batch, processes * execution.accumulate)
    if remainder:
        parts = f" in {execution.accumulate} parts each" if execution.accumulate > 1 else ""
        raise UserError(
            f"A batch of {recipe.batch} images cannot be split over {processes} processes{parts}: "
            f"expected a divisor of {recipe.batch}, choose another number with --processes."
        )
    group = recipe.bn_group
    if group is None or local % group == 0:
        return
    # Groups also span processes (`retable.nn.batch_norm`), but never the parts of a batch.
    spans = group % local == 0 and processes % (group // local) == 0
    if not spans or execution.accumulate > 1:
        raise UserError(
            f"Each process gets {local} images at a time and the recipe's batch-norm group has "
            f"{group}: expected that one divides the other, for instance with --processes "
            f"{max(1, recipe.batch // group)}."
        )


def _compile_encoders(method: Method) -> None:
    """Compile in place, so that names in the training state do not change."""
    for name, module in method.named_children():
        if name.endswith("encoder"):
            module.compile()
