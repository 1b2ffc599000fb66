"""Run a function in several CPU processes that talk over gloo, to test "distributed is single".

The theorem to test: with equal shares of a global batch, the mean of the processes' losses is the
loss of the global batch, the mean of their gradients is its gradient, and state that all processes
hold (queues, running statistics) is equal everywhere.
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
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

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
