"""Processes of a command: one training over several devices, or runs side by side on CPU cores.

A script that `accelerate launch` or torchrun has started goes on as one of theirs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from retable import progress
from retable.crashes import CrashReports, begin, ending, memory_kills
from retable.errors import MachineError, UserError
from retable.exit_status import Terminated
from retable.processes import PARENT, exit_with_parent
from retable.text import printable
from retable.variables import check_variables, rank, world_size

PATIENCE = 10.0
"""Seconds that a process has to end when another one has failed."""
GRACE = 60.0
"""Seconds that a process has to save its state when it is asked to stop."""

_MISTAKES = "RETABLE_MISTAKES"
"""Environment variable of our children: the folder for their messages to the user."""


def is_launched() -> bool:
    """Return whether a launcher has started this process."""
    return "WORLD_SIZE" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def is_child() -> bool:
    """Return whether `relaunch` has started this process."""
    return _MISTAKES in os.environ


def wanted_processes(requested: int | None) -> int:
    """Return the number of processes: a launcher's, else as requested, else one for each GPU.

    Raises:
        UserError: more processes than GPUs, or another program's variables are in the way.
    """
    gpus = torch.cuda.device_count()
    check_variables(gpus=gpus)
    if is_launched():
        return world_size()
    processes = max(1, gpus) if requested is None else requested
    if gpus and processes > gpus:
        raise UserError(
            f"`--processes` must be at most the {gpus} GPUs of this machine, got {processes}."
        )
    return processes


def relaunch(script: Path, arguments: Sequence[str], processes: int) -> int:
    """Run the script again in several processes and return the first status that is not 0.

    A process that fails ends the others, which would wait for it, and its error is reported. A
    signal that stops this process asks all to save their state, a second one ends them.

    Raises:
        MachineError: a process was killed.
    """
    words = [str(script), *arguments]
    with tempfile.TemporaryDirectory() as mistakes:
        gpus = bool(torch.cuda.device_count())
        commands = _accelerate_commands if gpus else _gloo_commands
        children: list[subprocess.Popen[bytes]] = []
        kills = memory_kills()
        try:
            for command, variables in commands(words, processes):
                # In another process group: Ctrl-C reaches only this process, which ends them.
                environment = {**os.environ, _MISTAKES: mistakes, **variables}
                children.append(subprocess.Popen(command, env=environment, process_group=0))
            while None in (statuses := [child.poll() for child in children]) and not any(statuses):
                time.sleep(0.05)
        except (KeyboardInterrupt, Terminated):
            # accelerate's launcher passes on SIGTERM alone.
            _ask_to_stop(children, signal.SIGTERM if gpus else signal.SIGUSR1)
            raise
        finally:
            # A process may wait inside a library, where Python would not notice a signal.
            _end(children, signal.SIGTERM if gpus else signal.SIGKILL)
        status = next((status for status in statuses if status), 0)
        messages = sorted(Path(mistakes).iterdir())
        if status < 0:
            raise MachineError(
                f"A process of this run {ending(status, kills)}. Start the same command again to "
                "continue."
            )
        if status and messages:
            report(messages[0].read_text(encoding="utf-8"))
        return status


def _ask_to_stop(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    """Wait until processes have saved their state and ended, but not for ever."""
    for child in children:
        child.send_signal(number)  # nothing happens to a process that has ended
    deadline = time.monotonic() + GRACE
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)


def _end(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    """End processes; one that is stopped or stuck is killed."""
    for child in children:
        child.send_signal(number)
    deadline = time.monotonic() + PATIENCE
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


Command = tuple[list[str], dict[str, str]]
"""Words, and environment variables besides those of this process."""


def _accelerate_commands(words: list[str], processes: int) -> list[Command]:
    """Return the command of accelerate's launcher, which starts one process for each GPU."""
    launcher = [sys.executable, "-m", "retable.processes", str(os.getpid())]
    launcher += ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher += ["--num_processes", str(processes)]
    return [([*launcher, *words], {})]


def _gloo_commands(words: list[str], processes: int) -> list[Command]:
    """Return commands of CPU processes; `accelerate launch --cpu` would silently start one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        PARENT: str(os.getpid()),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    ranks = map(str, range(processes))
    return [
        ([sys.executable, *words], {**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in ranks
    ]


def report(mistake: str) -> None:
    """Print the sentence of an error once: a child of `relaunch` passes it to its parent."""
    if is_child():
        # The first process that fails decides; the others may only have lost their partner.
        with suppress(OSError):
            path = Path(os.environ[_MISTAKES]) / f"{time.time_ns()}-{rank()}"
            path.write_text(mistake, encoding="utf-8")
    elif rank() == 0:
        print(printable(f"error: {mistake}"), file=sys.stderr)


def tell(message: str) -> None:
    """Print how a command was stopped, once."""
    if not is_child() and rank() == 0:
        print(message, file=sys.stderr)


def run_side_by_side(
    calls: Sequence[Callable[[], None]], jobs: int, ended: Callable[[int], None]
) -> None:
    """Make picklable calls in ``jobs`` worker processes, each with its own line for bars.

    ``ended`` is called here with the index of each call that has returned.

    The first exception of a call is raised here and ends the other workers; that of a killed worker
    is a `MachineError`.
    """
    context = multiprocessing.get_context("spawn")
    lines = context.Queue()  # starts Python's resource tracker, which would undo the deferral
    for line in range(jobs):
        lines.put(line)
    with CrashReports() as crashes:
        start = (lines, os.getpid(), crashes.path)
        pool = ProcessPoolExecutor(jobs, context, initializer=_begin_worker, initargs=start)
        _run_in(pool, calls, crashes, ended)


def _run_in(
    pool: ProcessPoolExecutor,
    calls: Sequence[Callable[[], None]],
    crashes: CrashReports,
    ended: Callable[[int], None],
) -> None:
    workers: list[Any] = []
    try:
        # Ctrl-C is deferred, and the workers that start meanwhile never receive it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            futures = {pool.submit(call): index for index, call in enumerate(calls)}
            workers = multiprocessing.active_children()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for future in as_completed(futures):
            future.result()
            ended(futures[future])
        pool.shutdown()  # the workers' processor time counts for this process once they have ended
    except BrokenProcessPool:
        pool.shutdown()  # until when all have their exit status
        raise MachineError(
            f"A worker process {crashes.describe(workers)}. Start the same command again to "
            "continue, with --jobs 1 if it happens again."
        ) from None
    except BaseException:
        # Ctrl-C does not reach workers, which would finish their runs.
        pool.shutdown(wait=False, cancel_futures=True)
        _stop_workers(workers)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _stop_workers(workers: Sequence[Any]) -> None:
    """Let workers save the state of their trainings and end; a second signal ends them at once."""
    try:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGUSR1)
        deadline = time.monotonic() + GRACE
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
    finally:
        for worker in workers:
            worker.kill()


def _begin_worker(lines: Any, parent: int, crashes: str) -> None:
    begin(crashes)
    progress.use_line(lines.get())
    exit_with_parent(parent)
