"""The command line of every table script."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from retable.errors import UserError
from retable.precision import PRECISIONS
from retable.reproduce.plan import TableSelection
from retable.reproduce.table import SCALES, Table
from retable.train.options import RunOptions

RECORDING_SEEDS = (1, 2, 3, 4, 5)
"""Seeds of a recording: five, for an estimate of the spread. A table is run with seed 0."""


class _Parser(argparse.ArgumentParser):
    """Raises wrong usage as a `UserError`."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message[:1].upper()}{message[1:]} (see --help).")


def parse(table: Table, arguments: Sequence[str]) -> tuple[TableSelection, RunOptions]:
    """Parse the arguments of a table script.

    Raises:
        UserError: wrong usage.
    """
    options = _parser(table).parse_args(arguments)
    if options.record and options.scale != "proxy":
        raise UserError("--record stores references of the proxy scale. Leave out --scale.")
    if options.record and (options.set or options.rows or options.max_steps):
        raise UserError(
            "--record stores whole tables of unchanged recipes: leave out --set, --rows and "
            "--max-steps."
        )
    default_seeds = RECORDING_SEEDS if options.record else table.seeds[options.scale]
    seeds = _seeds(options.seeds) if options.seeds else default_seeds
    if options.record and len(seeds) < len(RECORDING_SEEDS):
        raise UserError(
            f"--record needs at least {len(RECORDING_SEEDS)} seeds, got {len(seeds)}: "
            "leave out --seeds or name more."
        )
    if options.scale == "paper" and not options.data and not options.dry_run:
        raise UserError(
            "--scale paper needs the paper's images: add --data DIR (DIR/train and "
            "DIR/val with one folder for each class) or --data hf:NAME."
        )
    selection = TableSelection(
        scale=options.scale,
        data=options.data and _address(options.data),
        other_data=_other_data(table, options),
        rows=tuple(options.rows or ()),
        seeds=seeds,
        overrides=tuple(options.set or ()),
        precision=options.mixed_precision,
        max_steps=options.max_steps,
    )
    return selection, _run_options(options)


def _other_data(table: Table, options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Return the further data sets at paper scale."""
    given = {name: getattr(options, name) for name in table.other_data}
    for name, address in given.items():
        if address is not None and options.scale != "paper":
            raise UserError(
                f"--{name} {address} belongs to --scale paper: the {options.scale} scale uses the "
                "built-in data set."
            )
        if address is None and options.scale == "paper" and not options.dry_run:
            raise UserError(
                f"--scale paper needs {table.other_data[name]}: add --{name} DIR (DIR/train and "
                f"DIR/val with one folder for each class) or --{name} hf:NAME."
            )
    return tuple((name, _address(address)) for name, address in given.items() if address)


def _address(text: str) -> str:
    """Return the data set's name; a bare folder holds images."""
    return f"imagefolder:{text}" if Path(text).is_dir() else text


def _run_options(options: argparse.Namespace) -> RunOptions:
    small = options.scale != "paper"
    single = (options.processes or 1) == 1 and not torch.cuda.is_available()
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return RunOptions(
        folder=options.runs,
        processes=options.processes,
        jobs=options.jobs or (cores if small and single else 1),
        threads=1 if small else cores,
        workers=_workers(options),
        accumulate=options.accumulate,
        compile=options.compile,
        resident=options.resident,
        skip_unreadable=options.skip_unreadable,
        tensorboard=options.tensorboard,
        quiet=options.quiet,
        resume=options.resume,
        fresh=options.fresh,
        dry_run=options.dry_run,
        record=options.record,
    )


def _workers(options: argparse.Namespace) -> int:
    """Return the workers of each process; by default the processes share half of the cores."""
    if options.workers is not None:
        return int(options.workers)
    if options.scale != "paper":
        return 0
    return max(1, (os.cpu_count() or 2) // max(1, torch.cuda.device_count()) - 1)


def _seeds(words: Sequence[str]) -> tuple[int, ...]:
    """Parse ``0 1 2``, ``0-4`` or a mixture."""
    seeds: list[int] = []
    for word in words:
        first, separator, last = word.partition("-")
        try:
            seeds += range(int(first), int(last) + 1) if separator else [int(first)]
        except ValueError:
            raise UserError(
                f"`--seeds` must be numbers or ranges, got {word!r}. Use for instance 0 1 2 or 0-4."
            ) from None
    if not seeds:
        raise UserError(f"`--seeds {' '.join(words)}` names no seed. Write the lower one first.")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"`--seeds {' '.join(words)}` names a seed twice. Name each once.")
    return tuple(seeds)


def _count(text: str) -> int:
    """Parse an integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, got {text}")
    return int(text)


def _positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text}")
    return int(text)


def _rows_help(table: Table) -> str:
    several = any(len(table.trainings(row)) > 1 for row in table.rows)
    variants = ", or one training as ROW/VARIANT" if several else ""
    return f"of {', '.join(table.rows)}{variants}; all by default"


def _parser(table: Table) -> argparse.ArgumentParser:
    parser = _Parser(prog=table.script.name, description=f"Reproduce {table.name}.")
    add = parser.add_argument
    add("--scale", choices=SCALES, default="proxy", help="proxy: minutes, built-in images")
    add("--data", help="DIR, hf:NAME or arrow:DIR, for --scale paper")
    for name, what in table.other_data.items():
        add(f"--{name}", metavar="DIR", help=f"{what}, for --scale paper")
    add("--rows", nargs="+", metavar="ROW", help=_rows_help(table))
    add("--seeds", nargs="+", metavar="SEED", help="numbers or ranges: 0 1 2 or 0-4")
    add("--set", action="append", metavar="FIELD=VALUE", help="for instance pretrain.epochs=5")
    add("--processes", type=_positive, help="one for each GPU by default; gloo processes on a CPU")
    add("--jobs", type=_positive, help="runs side by side on a CPU; one for each core by default")
    add("--workers", type=_count, help="decoding processes of each training process")
    add("--mixed-precision", choices=PRECISIONS, help="float32 by default")
    add("--accumulate", type=_positive, default=1, help="micro-batches, where the method allows it")
    add("--compile", action="store_true", help="torch.compile the encoders")
    add("--resident", action="store_true", help="keep the decoded images on the device")
    add(
        "--max-steps",
        type=_positive,
        help="stop each training after this many steps; nothing is compared",
    )
    add("--skip-unreadable", action="store_true", help="leave out and count unreadable images")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", action="store_true", help="require earlier runs to continue from"
    )
    start.add_argument(
        "--fresh", action="store_true", help="delete earlier runs of these rows first"
    )
    add("--dry-run", action="store_true", help="print the planned runs and their cost")
    add("--record", action="store_true", help="store the metrics as this table's proxy references")
    add("--runs", type=Path, default=Path("runs"), help="folder of results; ./runs by default")
    add("--tensorboard", action="store_true", help="also write TensorBoard events")
    add("--quiet", action="store_true", help="no progress bars")
    return parser
