"""The link between a command and the processes that a launcher starts for it.

``python -m retable.processes PARENT MODULE ARGUMENTS`` is ``python -m MODULE ARGUMENTS`` with two
differences: it and its processes end when the process PARENT has ended for any reason, and it
returns a process's exit status without the launcher's traceback.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from retable.crashes import CrashReports, begin
from retable.errors import MachineError
from retable.exit_status import TERMINATED

PARENT = "RETABLE_PARENT"
"""Environment variable with the launcher's process id, set for the processes that it starts."""


def exit_with_parent(parent: int) -> None:
    """End this process, from a thread, when its parent ``parent`` has ended.

    A killed command must not keep training in the background. Nothing is cleaned up: the files of a
    run are complete at any moment.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(TERMINATED)

    threading.Thread(target=watch, daemon=True).start()


def exit_with_launcher() -> None:
    """Call `exit_with_parent` for the launcher that started this process, if one did."""
    if PARENT in os.environ:
        exit_with_parent(int(os.environ[PARENT]))


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(workers: int, what: str) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes of one thread each, which end with this one, however it ends.

    ``what`` they make, in the plural, is named where one has died. Give and return NumPy arrays: a
    tensor that is sent to another process holds an open file as long as it lives.

    Raises:
        MachineError: a process has died.
    """
    before = multiprocessing.active_children()
    with CrashReports() as crashes:
        pool = ProcessPoolExecutor(
            workers,
            multiprocessing.get_context("spawn"),
            initializer=_begin_worker,
            initargs=(os.getpid(), crashes.path),
        )
        for _ in range(workers):  # a process begins with a call that finds none idle
            pool.submit(_nothing)
        own = [worker for worker in multiprocessing.active_children() if worker not in before]
        try:
            yield pool
        except BrokenProcessPool:
            pool.shutdown()  # until when all have their exit status
            raise MachineError(
                f"A process that makes {what} {crashes.describe(own)}. Run the same command again "
                "to continue, with fewer --workers if it happens again."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _nothing() -> None:
    """Make a pool start its processes."""


def _begin_worker(parent: int, crashes: str) -> None:
    """Prepare a process of a pool: one thread, and Ctrl-C is the command's."""
    import torch

    begin(crashes)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    exit_with_parent(parent)


def main(words: list[str]) -> int:
    """Run a launcher's module and return the status of the first process that failed, or 0."""
    parent, module, *arguments = words
    exit_with_parent(int(parent))
    os.environ[PARENT] = str(os.getpid())
    # torch reports every status but 0 as a crash, also that of a table with a miss.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode  # below 0 if a signal has ended the process
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    if status < 0:  # end in the same way, which a positive status could not say
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)
