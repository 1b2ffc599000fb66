"""Commands that make one image of each image of a folder: ``python -m ... SOURCE TARGET``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from retable.data.derived.files import Derivation, ImageMaker
from retable.data.derived.making import make_missing
from retable.devices import check_device
from retable.domains import Count, Parser, integer
from retable.exit_status import run_resumable


def derivation_parser(program: str, noun: str) -> Parser:
    """Return the parser of a command, to which its own options are added.

    Args:
        program: how the command is called, such as "python -m relicv2.masks".
        noun: what is made, in the singular.
    """
    parser = Parser(
        prog=program, description=f"Make a {noun} of each image of a folder; run again to continue."
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", type=Path, help="folder of images, at any depth")
    add("target", metavar="TARGET", type=Path, help=f"folder of the {noun}s")
    add("--workers", type=integer(Count), help="processes; default: one for each core")
    add("--device", default="cpu", help="cpu, cuda or cuda:N, which takes one process")
    skip = "leave out and count unreadable images instead of refusing"
    add("--skip-unreadable", action="store_true", help=skip)
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def run_derivation(
    parser: Parser,
    noun: str,
    maker_of: Callable[[Namespace], ImageMaker],
    arguments: Sequence[str] | None = None,
) -> int:
    """Make what is missing and return a status of `retable.exit_status`.

    Args:
        parser: the command's, see `derivation_parser`.
        noun: what is made, in the singular.
        maker_of: options -> settings of what is made.
        arguments: words of the command line; this process's if None.
    """

    def make() -> int:
        options = parser.parse_args(arguments)
        check_device(options.device)
        make_missing(
            Derivation(options.source, options.target, maker_of(options), noun, options.device),
            workers=options.workers,
            skip_unreadable=options.skip_unreadable,
            quiet=options.quiet,
        )
        return 0

    return run_resumable(make)
