"""Carry out runs side by side on the cores of a CPU, in workers that end with the command."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from retable import progress
from retable.errors import UserError
from retable.processes import exit_with_parent


def run_side_by_side(calls: Sequence[Callable[[], None]], jobs: int) -> None:
    """Make picklable calls in ``jobs`` worker processes, each with its own line for bars.

    The first exception of a call is raised here, and ends the other workers.

    Raises:
        UserError: a worker was killed.
    """
    context = multiprocessing.get_context("spawn")
    lines = context.Queue()  # starts Python's resource tracker, which would undo the deferral
    for line in range(jobs):
        lines.put(line)
    pool = ProcessPoolExecutor(
        jobs, context, initializer=_begin_worker, initargs=(lines, os.getpid())
    )
    try:
        with _interrupts_deferred():
            futures = [pool.submit(call) for call in calls]
        for future in as_completed(futures):
            future.result()
    except BrokenProcessPool:
        raise UserError(
            "A worker process was killed, often because it ran out of memory. Start the same "
            "command again to continue, with --jobs 1 if it happens again."
        ) from None
    except BaseException:
        # Ctrl-C does not reach workers, which would finish their run; checkpoints are on disk.
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Defer Ctrl-C; processes that are started meanwhile never receive it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _begin_worker(lines: Any, parent: int) -> None:
    progress.use_line(lines.get())
    exit_with_parent(parent)
