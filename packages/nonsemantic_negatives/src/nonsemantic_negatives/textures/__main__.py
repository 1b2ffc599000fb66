"""Make the texture twin of a folder of images.

python -m nonsemantic_negatives.textures SOURCE TARGET makes TARGET/.../STEM.png of every image
SOURCE/.../STEM.*, so that ``imagefolder:SOURCE?companion=TARGET`` is a data set with twins. The
same command continues after an interruption.
"""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from nonsemantic_negatives.textures.processes import twins_of_batches
from nonsemantic_negatives.textures.quilting import Quilting
from nonsemantic_negatives.textures.stochastic import Stochastic
from nonsemantic_negatives.textures.twins import (
    TwinRecipe,
    claim_target,
    find_images,
    is_made,
)
from retable.data.decoding import UnreadableImageError
from retable.data.skipped import left_out
from retable.domains import SEED, Count, Parser, Pixels, integer
from retable.exit_status import run_guarded
from retable.files import remove_abandoned
from retable.outputs import check_output_folder
from retable.progress import bar
from retable.text import printable

_PIXELS_AT_ONCE = 1 << 16
"""Pixels of textures that a process makes together: 64 of 32 px, one of 224 px."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return a status of `retable.exit_status`."""

    def report(sentence: str) -> None:
        print(printable(f"error: {sentence}"), file=sys.stderr)

    again = "the same command continues"
    return run_guarded(
        lambda: _run(_parser().parse_args(arguments)),
        report,
        interrupted=f"interrupted; {again}.",
        terminated=f"terminated; {again}.",
    )


def _parser() -> Parser:
    parser = Parser(
        prog="python -m nonsemantic_negatives.textures",
        description="Make the texture twin of a folder of images; run again to continue.",
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", type=Path, help="folder of images, at any depth")
    add("target", metavar="TARGET", type=Path, help="folder of the twins")
    backends = "quilting is fast; stochastic follows the tool of the paper; default: %(default)s"
    add("--backend", choices=("quilting", "stochastic"), default="quilting", help=backends)
    side = integer(Pixels)
    add("--size", type=side, default=224, help="side of a twin in pixels; default: %(default)s")
    patch = "side of the two patches in pixels of the image; default: %(default)s"
    add("--exemplar", type=side, default=96, help=patch)
    block = "side of quilting's blocks in pixels; default: 3/8 of the exemplar"
    add("--block", type=side, help=block)
    add("--seed", type=integer(SEED), default=0, help="default: %(default)s")
    add("--workers", type=integer(Count), help="processes; default: one for each core")
    add("--device", default="cpu", help="cpu, cuda or cuda:N, which takes one process")
    skip = "leave out and count unreadable images instead of refusing"
    add("--skip-unreadable", action="store_true", help=skip)
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def _recipe(options: Namespace) -> TwinRecipe:
    backend: Quilting | Stochastic = Stochastic()
    if options.backend == "quilting":
        block = options.block or max(2, options.exemplar * 3 // 8)
        backend = Quilting(block, max(1, block // 4))
    return TwinRecipe(options.size, options.exemplar, backend, options.seed)


def _run(options: Namespace) -> int:
    recipe = _recipe(options)
    names, walk = find_images(options.source)
    check_output_folder(options.target, "TARGET")
    claim_target(options.source, options.target, recipe)
    remove_abandoned(options.target)
    waiting = [name for name in names if not is_made(options.source, options.target, name)]
    for line in left_out({"skipped": walk.skipped.facts()}):
        print(printable(line))
    print(f"{len(names):,} images, {len(names) - len(waiting):,} twins are there.")
    start = time.monotonic()
    made, unreadable = _make(options, recipe, waiting)
    hours = (time.monotonic() - start) / 3600
    rate = f", {made / hours:,.0f} an hour" if made else ""
    print(f"{made:,} twins made{rate}.")
    for error in unreadable:
        print(printable(f"left out: {error.name} ({error.fault})"))
    return 0


def _make(
    options: Namespace, recipe: TwinRecipe, waiting: list[str]
) -> tuple[int, list[UnreadableImageError]]:
    """Make the twins that are missing; return how many, and the images that cannot be read."""
    at_once = max(1, _PIXELS_AT_ONCE // recipe.size**2)
    batches = [waiting[start : start + at_once] for start in range(0, len(waiting), at_once)]
    unreadable: list[UnreadableImageError] = []
    made = 0
    progress = bar(len(waiting), "twins", shown=not options.quiet)
    with progress:
        for count, errors in twins_of_batches(
            batches,
            (options.source, options.target, recipe, options.device),
            options.workers or len(os.sched_getaffinity(0)),
        ):
            if errors and not options.skip_unreadable:
                raise errors[0]
            unreadable += errors
            made += count
            progress.update(count + len(errors))
    return made, unreadable


if __name__ == "__main__":
    sys.exit(main())
