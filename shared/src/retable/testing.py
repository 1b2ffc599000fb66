"""Tools to test a method: a tiny encoder, batches, training steps, several CPU processes.

The property of distributed code that `run_processes` tests: with equal shares of a global batch,
the mean of the processes' losses is the loss of the global batch, the mean of their gradients is
its gradient, and state that all processes hold (queues, running statistics) is equal everywhere.
"""

from __future__ import annotations

import importlib.util
import inspect
import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from retable import distributed
from retable.methods.method import Batch, Method, Progress
from retable.random import derive_key, initialising, normal

Result = TypeVar("Result")


class TinyEncoder(nn.Module):
    """One convolution, averaged over pixels: images (B, 3, H, W) of any size to (B, 12).

    Without ``norm`` it has no batch norm, so that each image is embedded independently.
    """

    feature_dim = 12

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        with initialising(5):
            self.conv = nn.Conv2d(3, 12, 3)
        self.norm = nn.BatchNorm2d(12) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of images."""
        return torch.tanh(2 * self.norm(self.conv(images))).mean(dim=(2, 3))


def make_batch(
    step: int = 0,
    size: int = 8,
    *,
    sides: Sequence[int] = (4, 4),
    noise: float = 0.5,
    labels: Sequence[int] | None = None,
    steps_per_epoch: int = 5,
    epochs: int = 4,
) -> Batch:
    """Return the global batch of a step, in which views of an image differ by noise.

    Args:
        step: the step; different steps have different images.
        size: number of images.
        sides: side of each view in pixels.
        noise: standard deviation of the noise; images have a deviation of 1.
        labels: classes of the images; 0, 1, 2, 0, ... if None.
        steps_per_epoch: steps in an epoch.
        epochs: epochs of the training.
    """
    images = normal(derive_key(step, "images"), torch.arange(size * 3)).view(size, 3, 1, 1)
    views = []
    for number, side in enumerate(sides):
        pixels = normal(derive_key(step, "view", number), torch.arange(size * 3 * side * side))
        views.append(images + noise * pixels.view(size, 3, side, side))
    return Batch(
        views=tuple(views),
        labels=torch.arange(size) % 3 if labels is None else torch.tensor(labels),
        indices=torch.arange(size),
        positions=torch.arange(size),
        progress=Progress(step, steps_per_epoch, epochs),
        rng_key=derive_key(0, "step", step),
    )


def select_rows(batch: Batch, rows: Tensor | slice) -> Batch:
    """Return the given samples of a batch."""
    return replace(
        batch,
        views=tuple(view[rows] for view in batch.views),
        labels=batch.labels[rows],
        indices=batch.indices[rows],
        positions=batch.positions[rows],
    )


def own_share(batch: Batch) -> Batch:
    """Return this process's equal share of a global batch."""
    return select_rows(batch, distributed.own_slice(torch.arange(len(batch.positions))))


def train_steps(
    method: Method,
    steps: Iterable[int],
    batch_of: Callable[[int], Batch] = make_batch,
    lr: float = 0.1,
) -> list[float]:
    """Make steps of SGD with gradients averaged over processes; return the losses.

    ``batch_of`` returns the global batch of a step. Every trained parameter must get a gradient, as
    DDP requires.
    """
    losses = []
    for step in steps:
        batch = batch_of(step)
        output = method(own_share(batch))
        method.zero_grad()
        output.loss.backward()
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None
                    parameter.sub_(lr * distributed.mean(parameter.grad))
        method.after_step(batch.progress)
        losses.append(float(distributed.mean(output.loss)))
    return losses


def equal_states(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two modules have states of equal names and bits."""
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def run_processes(
    function: Callable[..., Result], count: int, *args: object, timeout: float = 300.0
) -> list[Result]:
    """Call ``function(*args)`` in ``count`` processes of one gloo group, each with one thread.

    Args:
        function: a function at the top level of a module, also of a test module that only pytest
            can import. Inside it, `retable.distributed` knows rank and number of processes.
        count: number of processes.
        args: picklable arguments, the same for all processes.
        timeout: seconds until all processes are killed, including their imports.

    Returns:
        The results of the processes, in rank order.

    Raises:
        RuntimeError: a process raised (its traceback is in the message), died or timed out.
    """
    start = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(start)
    if start == "forkserver":
        # The server, of which each process is a fork, imports their common modules once.
        loaded = [name for name in ("pytest", "hypothesis") if name in sys.modules]
        context.set_forkserver_preload(["__main__", __name__, *loaded])
    module = (function.__module__, inspect.getfile(function))
    call = pickle.dumps((function.__qualname__, args))
    with tempfile.TemporaryDirectory() as folder:
        processes: list[BaseProcess] = []
        pipes: list[Connection] = []
        for rank in range(count):
            receiver, sender = context.Pipe(duplex=False)
            place = (rank, count, str(Path(folder) / "store"), timeout)
            process = context.Process(  # type: ignore[attr-defined]
                target=_work, args=(sender, module, call, place), daemon=True
            )
            process.start()
            sender.close()
            processes.append(process)
            pipes.append(receiver)
        try:
            return _collect(pipes, time.monotonic() + timeout)
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            for pipe, process in zip(pipes, processes, strict=True):
                pipe.close()
                process.join()
                process.close()


def _collect(pipes: list[Connection], deadline: float) -> list[Any]:
    """Wait for every process; stop at the first failure, since the others wait for that process."""
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in results]
        ready = wait(waiting, max(0.0, deadline - time.monotonic()))
        if not ready:
            late = [rank for rank in range(len(pipes)) if rank not in results]
            raise RuntimeError(f"processes {late} did not finish within the timeout")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = pipes.index(pipe)
            try:
                failure, value = pickle.loads(pipe.recv_bytes())
            except EOFError:
                raise RuntimeError(f"process {rank} died without a result") from None
            if failure:
                raise RuntimeError(f"process {rank} failed:\n{failure}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _work(
    sender: Connection, module: tuple[str, str], call: bytes, place: tuple[int, int, str, float]
) -> None:
    """Join the group, call the function, send ``(traceback, None)`` or ``("", result)``."""
    rank, count, store, timeout = place
    try:
        torch.set_num_threads(1)
        _import(*module)
        name, args = pickle.loads(call)
        function = sys.modules[module[0]]
        for part in name.split("."):
            function = getattr(function, part)
        # Otherwise gloo resolves the host's name to an address that may not be reachable.
        loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=timeout),
        )
        result = function(*args)  # type: ignore[operator]
        dist.barrier()
        dist.destroy_process_group()
        answer = pickle.dumps(("", result))
    except BaseException:
        answer = pickle.dumps((traceback.format_exc(), None))
    sender.send_bytes(answer)
    sender.close()


def _import(name: str, path: str) -> None:
    """Import a module from its file under the name that it has in the parent."""
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
