"""Help for tests: functions in several CPU processes, and the contract of encoders.

Processes test "distributed is single": with equal shares of a global batch, the mean of the
processes' losses is the loss of the global batch, the mean of their gradients is its gradient, and
state that all processes hold (queues, running statistics) is equal everywhere.
"""

from __future__ import annotations

import copy
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
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from retable.encoders import Encoder, EncoderRecipe
from retable.errors import UserError

Result = TypeVar("Result")


def run_processes(
    function: Callable[..., Result], count: int, *args: object, timeout: float = 300.0
) -> list[Result]:
    """Call ``function(*args)`` in ``count`` processes of one gloo group, each with one thread.

    Args:
        function: a function at the top level of a module, also of a test module that only pytest
            can import. Inside it, `retable.distributed` knows rank and number of processes.
        count: number of processes.
        args: picklable, the same for all processes.
        timeout: seconds until all processes are ended, the imports of a busy machine included.

    Returns:
        What the processes returned, in rank order.

    Raises:
        RuntimeError: a process raised (its traceback is in the message), died or took too long.
    """
    start = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(start)
    if start == "forkserver":
        # What every process needs is imported once, in the server, of which each is a fork.
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
    """Wait for every process, and give up at the first that fails: the others wait for it."""
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in results]
        ready = wait(waiting, max(0.0, deadline - time.monotonic()))
        if not ready:
            late = [rank for rank in range(len(pipes)) if rank not in results]
            raise RuntimeError(f"processes {late} did not finish in time")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = pipes.index(pipe)
            try:
                failure, value = pickle.loads(pipe.recv_bytes())
            except EOFError:
                raise RuntimeError(f"process {rank} died without a word") from None
            if failure:
                raise RuntimeError(f"process {rank} failed:\n{failure}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _work(
    sender: Connection, module: tuple[str, str], call: bytes, place: tuple[int, int, str, float]
) -> None:
    """Be one process: join the group, call, answer ``(traceback, None)`` or ``("", result)``."""
    rank, count, store, timeout = place
    try:
        torch.set_num_threads(1)
        _import(*module)
        name, args = pickle.loads(call)
        function = sys.modules[module[0]]
        for part in name.split("."):
            function = getattr(function, part)
        # gloo otherwise asks the resolver for the host's address, which may not be reachable.
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
    """Import a module under the name that it has in the parent, wherever it lies."""
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def check_encoder(recipe: EncoderRecipe, side: int = 32) -> None:
    """Check what Retable relies on in an encoder: taps, initialisation, copies, the meta device.

    Args:
        recipe: a small encoder of convolutions and batch or group norms.
        side: side in pixels of the images to pass.

    Raises:
        AssertionError: the encoder breaks the contract of `retable.encoders.Encoder`.
    """
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    _check_weights(recipe, images)
    for training in (True, False):  # the features are the last tap
        encoder = recipe.build(1).train(training)
        assert encoder.tap_names[-1] == "pre_logits"
        features = encoder(images)
        assert features.shape == (len(images), encoder.feature_dim)
        again = recipe.build(1).train(training).taps(images, ["pre_logits"])["pre_logits"]
        assert torch.equal(features, again)
    # Taps are those of one pass, in any order, and no later layer changes them in place.
    every = encoder.taps(images, encoder.tap_names)
    assert tuple(every) == encoder.tap_names
    assert all(every[name].ndim == 4 for name in encoder.tap_names[:-1])
    backwards = encoder.taps(images, encoder.tap_names[::-1])
    assert tuple(backwards) == encoder.tap_names[::-1]
    for name in encoder.tap_names:
        assert torch.equal(encoder.taps(images, [name])[name], every[name])
        assert torch.equal(backwards[name], every[name])
    _check_depth(encoder, images)
    assert encoder.taps(images, ()) == {}
    refused = ""
    try:
        encoder.taps(images, ("pre_logits", "no such tap"))
    except UserError as error:
        refused = str(error)
    assert "no tap 'no such tap'" in refused


def _check_weights(recipe: EncoderRecipe, images: torch.Tensor) -> None:
    """Weights depend on the key alone, leave the global generator, and are copied deeply."""
    before = torch.random.get_rng_state()
    encoder, same, other = (recipe.build(key) for key in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    weight, *_ = encoder.parameters()
    assert torch.equal(weight, next(same.parameters()))
    assert not torch.equal(weight, next(other.parameters()))
    copied = copy.deepcopy(encoder)
    copied(images).sum().backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    own = {value.data_ptr() for value in encoder.parameters()}
    assert own.isdisjoint(value.data_ptr() for value in copied.parameters())
    with torch.device("meta"):
        empty = recipe.build(1).state_dict()
    assert all(value.is_meta for value in empty.values())
    state = encoder.state_dict()
    assert {name: value.shape for name, value in empty.items()} == {
        name: value.shape for name, value in state.items()
    }


def _check_depth(encoder: Encoder, images: torch.Tensor) -> None:
    """No convolution runs twice in a pass, or beyond the deepest tap."""
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
    calls: list[nn.Module] = []
    hooks = [layer.register_forward_hook(lambda layer, *_: calls.append(layer)) for layer in layers]
    counts = []
    for name in encoder.tap_names:
        calls.clear()
        encoder.taps(images, (name, encoder.tap_names[0]))
        assert len(set(calls)) == len(calls)
        counts.append(len(calls))
    for hook in hooks:
        hook.remove()
    assert counts == sorted(counts)
    assert counts[0] < counts[-2]
    assert counts[-1] == len(layers)
