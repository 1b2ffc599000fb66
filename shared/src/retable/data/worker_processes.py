"""Processes that prepare the batches of a loader: they end with their parent, as it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from retable import random
from retable.crashes import CrashReports, begin
from retable.errors import MachineError, UserError
from retable.processes import exit_with_parent

AHEAD = 2
"""Batches that each worker prepares ahead."""

Result = TypeVar("Result")


def results_by_step(
    dataset: Dataset[Result | str], steps: Sequence[int], workers: int, device: torch.device
) -> Iterator[Result]:
    """Yield ``dataset[step]`` of each step in order, made by ``workers`` processes, 0: by this one.

    A dataset returns a user error as its message: an exception itself would arrive wrapped.

    Raises:
        UserError: an item is a message.
        MachineError: a worker was killed.
    """
    with CrashReports() as crashes:
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=steps,
            prefetch_factor=AHEAD if workers else None,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=device.type == "cuda",
            worker_init_fn=partial(_begin_worker, os.getpid(), crashes.path),
            # A generator is given so that the global one is not advanced.
            generator=random.generator(0),
        )
        yield from _checked(loader, crashes)


def _unchanged(item: Any) -> Any:
    return item


def _begin_worker(parent: int, crashes: str, worker: int) -> None:
    """Leave Ctrl-C, which reaches all processes of the group, to the parent, and end with it.

    Torch's own watch would take five seconds and a batch to notice that the parent was killed, and
    never does if the parent was killed before the worker began. For so long the worker, a fork,
    would hold the parent's open files, such as the lock of its run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begin(crashes)
    exit_with_parent(parent)


def _checked(results: Iterable[Result | str], crashes: CrashReports) -> Iterator[Result]:
    iterator = iter(results)  # starts the workers
    workers = multiprocessing.active_children()
    try:
        for result in iterator:
            if isinstance(result, str):
                raise UserError(result)
            yield result
    except RuntimeError as error:
        if "DataLoader worker" in str(error) and ("killed" in str(error) or "exited" in str(error)):
            raise MachineError(
                f"A decoding worker {crashes.describe(workers)}. Start the same command again to "
                "continue; where it happens again, use fewer workers or a smaller batch, or "
                "enlarge /dev/shm."
            ) from error
        raise
