"""Images made batch by batch, in this process or in several, until none is missing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from retable.data.decoding import UnreadableImageError
from retable.data.derived.files import Derivation
from retable.data.skipped import left_out
from retable.files import lock_folder, remove_abandoned
from retable.outputs import check_output_folder
from retable.processes import available_cores, worker_pool
from retable.progress import bar
from retable.text import printable

Outcome = tuple[int, list[UnreadableImageError]]
"""How many images of a batch were made, and those that cannot be read."""


def make_missing(
    derivation: Derivation,
    *,
    workers: int | None = None,
    skip_unreadable: bool = False,
    quiet: bool = False,
) -> int:
    """Make every image that is not there yet, print what was done, and return how many were made.

    Args:
        derivation: folders and settings.
        workers: processes; one for each core if None. Images on a GPU are made in this process.
        skip_unreadable: leave out and name unreadable images instead of refusing.
        quiet: no progress bar.

    Raises:
        UserError: see `Derivation`; or an image is unreadable, or another command works in TARGET.
        MachineError: a process has died.
    """
    names, walk = derivation.find_images()
    check_output_folder(derivation.target, "TARGET")
    derivation.check_target()
    with lock_folder(derivation.target, "TARGET"):
        derivation.claim_target()
        remove_abandoned(derivation.target)
        waiting = [name for name in names if not derivation.is_made(name)]
        for line in left_out({"skipped": walk.skipped.facts()}):
            print(printable(line))
        there = len(names) - len(waiting)
        print(f"{len(names):,} images, {there:,} {derivation.noun}s are there.")
        return _make_all(derivation, waiting, workers or available_cores(), skip_unreadable, quiet)


def _make_all(
    derivation: Derivation, waiting: list[str], workers: int, skip_unreadable: bool, quiet: bool
) -> int:
    """Make the images that are waiting and print what was done, see `make_missing`."""
    noun, at_once = f"{derivation.noun}s", derivation.maker.at_once
    batches = [waiting[first : first + at_once] for first in range(0, len(waiting), at_once)]
    start = time.monotonic()
    unreadable: list[UnreadableImageError] = []
    made = 0
    progress = bar(len(waiting), noun, shown=not quiet)
    with progress:
        for count, errors in _outcomes(derivation, batches, workers):
            if errors and not skip_unreadable:
                raise errors[0]
            unreadable += errors
            made += count
            progress.update(count + len(errors))
    hours = (time.monotonic() - start) / 3600
    print(f"{made:,} {noun} made{f', {made / hours:,.0f} an hour' if made else ''}.")
    for error in unreadable:
        print(printable(f"left out: {error.name} ({error.fault})"))
    return made


def _outcomes(
    derivation: Derivation, batches: Sequence[list[str]], workers: int
) -> Iterator[Outcome]:
    """Make batches and yield what came of each, in any order."""
    if derivation.device != "cpu" or workers == 1 or len(batches) < 2:
        yield from (_make(batch, derivation) for batch in batches)
        return
    running: set[Future[Outcome]] = set()
    with worker_pool(min(workers, len(batches)), f"{derivation.noun}s") as pool:
        for batch in batches:
            running.add(pool.submit(_make, batch, derivation))
            if len(running) >= 2 * workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in running)


def _make(names: list[str], derivation: Derivation) -> Outcome:
    """Make the images of a batch, all but those of images that cannot be read."""
    errors: list[UnreadableImageError] = []
    left = list(names)
    while left:
        try:
            derivation.make(left)
            break
        except UnreadableImageError as error:
            errors.append(error)
            left.remove(error.name)
    return len(left), errors
