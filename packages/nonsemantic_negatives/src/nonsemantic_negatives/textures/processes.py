"""Texture twins made batch by batch, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from nonsemantic_negatives.textures.twins import TwinRecipe, make_twins
from retable.data.decoding import UnreadableImageError
from retable.errors import MachineError
from retable.processes import exit_with_parent

Outcome = tuple[int, list[UnreadableImageError]]
"""How many twins of a batch were made, and the images that cannot be read."""

Arguments = tuple[Path, Path, TwinRecipe, str]
"""Source, target, recipe and device."""


def twins_of_batches(
    batches: Sequence[list[str]], arguments: Arguments, workers: int
) -> Iterator[Outcome]:
    """Make twins and yield what came of each batch, in any order.

    Twins on a GPU are made in this process. The processes end with this one, however it ends.

    Raises:
        MachineError: a process has died.
    """
    if arguments[-1] != "cpu" or workers == 1 or len(batches) < 2:
        yield from (_make(batch, *arguments) for batch in batches)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(batches)),
        multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(os.getpid(),),
    )
    running: set[Future[Outcome]] = set()
    try:
        for batch in batches:
            running.add(pool.submit(_make, batch, *arguments))
            if len(running) >= 2 * workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in running)
    except BrokenProcessPool:
        raise MachineError(
            "A process that makes twins has died. Give it more memory or start fewer --workers, "
            "and run the same command again to continue."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int) -> None:
    """Prepare a process: one thread, and Ctrl-C is the command's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    exit_with_parent(parent)


def _make(names: list[str], source: Path, target: Path, recipe: TwinRecipe, device: str) -> Outcome:
    """Make the twins of a batch, all but those of images that cannot be read."""
    errors: list[UnreadableImageError] = []
    left = list(names)
    while left:
        try:
            make_twins(source, target, left, recipe, device)
            break
        except UnreadableImageError as error:
            errors.append(error)
            left.remove(error.name)
    return len(left), errors
