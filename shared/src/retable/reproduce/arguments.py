"""The command line of every table script."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from retable.data.sources import ADDRESSES
from retable.domains import MOST_SEEDS, SEED, Count, Parser, Small, SmallOrZero, integer, shown
from retable.errors import UserError
from retable.evaluate.ood_sets import parse_set
from retable.precision import PRECISIONS
from retable.processes import available_cores
from retable.reproduce.help import epilog
from retable.reproduce.plan import TableSelection
from retable.reproduce.pricing import PUBLISHED
from retable.reproduce.table import SCALES, Table
from retable.tables.recording import LEAST_SEEDS
from retable.train.options import RunOptions

RECORDING_SEEDS = (1, 2, 3, 4, 5)
"""Seeds of a recording: five, for an estimate of the spread. A table is run with seed 0."""


def parse(table: Table, arguments: Sequence[str]) -> tuple[TableSelection, RunOptions]:
    """Parse the arguments of a table script; wrong usage is a `UserError`."""
    options = _parser(table).parse_args(arguments)
    small = options.scale != "paper"
    if options.record and options.scale != "proxy":
        raise UserError("--record stores references of the proxy scale. Leave out --scale.")
    if options.record and (options.set or options.rows or options.max_steps):
        raise UserError(
            "--record stores whole tables of unchanged recipes: leave out --set, --rows and "
            "--max-steps."
        )
    default_seeds = RECORDING_SEEDS if options.record else table.seeds[options.scale]
    seeds = _seeds(options.seeds) if options.seeds else default_seeds
    if options.extend and not (options.record and options.seeds):
        raise UserError("--extend adds seeds to a recording: write --record --extend --seeds SEED.")
    if options.record and not options.extend and len(seeds) < LEAST_SEEDS:
        raise UserError(
            f"--record needs at least {LEAST_SEEDS} seeds, got {len(seeds)}: "
            "leave out --seeds or name more."
        )
    what = {"data": "the paper's images", **table.other_data}
    given = {name: getattr(options, _variable(name)) for name in (*what, *table.optional_data)}
    for name, address in given.items():
        if name in what and not small and not address and not options.dry_run:
            raise UserError(
                f"--scale paper needs {what[name]}: add --{name} DIR (DIR/train and DIR/val with "
                f"one folder for each class) or --{name} hf:NAME."
            )
    data = {name: _address(name, text) for name, text in given.items() if text}
    if table.label_lists and (folder := getattr(options, _variable(table.label_lists.option))):
        data[table.label_lists.option] = folder
    selection = TableSelection(
        scale=options.scale,
        data=data.pop("data", None),
        other_data=(*data.items(), *_ood_folders(table, getattr(options, "ood", []))),
        rows=_rows(table, options),
        seeds=seeds,
        overrides=tuple(options.set or ()),
        precision=options.mixed_precision,
        max_steps=options.max_steps,
    )
    cores = available_cores()
    gpus = torch.cuda.device_count()
    if options.workers is None:  # the processes share half of the cores
        options.workers = 0 if small else max(1, (os.cpu_count() or 2) // max(1, gpus) - 1)
    if options.jobs is None:
        options.jobs = cores if small and options.processes in (None, 1) and not gpus else 1
    options.threads = 1 if small else cores
    options.fresh = time.time() if options.fresh else 0.0
    options.accepted = tuple(options.accept_other)
    names = {field.name for field in dataclasses.fields(RunOptions)}
    how = {name: value for name, value in vars(options).items() if name in names}
    return selection, RunOptions(**how)


def _variable(option: str) -> str:
    return option.replace("-", "_")


def _address(name: str, text: str) -> str:
    """Return a data set that an option names; a bare folder is of the kind of the option's name.

    For instance ``--voc DIR``; of other options it holds a folder of images for each class.
    """
    if not Path(text).is_dir():
        return text
    return f"{name if name in ADDRESSES else 'imagefolder'}:{text}"


def _ood_folders(table: Table, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return the folders of out-of-distribution sets as further data sets of the table."""
    sets = list(map(parse_set, texts))
    for one in sets:
        if one.name not in table.ood_sets or not one.folder:
            raise UserError(
                f"`--ood` must be NAME=DIR with a set of {table.name}, "
                f"{', '.join(table.ood_sets)}, got {one.name}. Correct it."
            )
    return [(f"ood:{one.name}", one.folder) for one in sets]


ALL = "all"
"""Stands for all rows of a table, whose default may be some of them."""


def _rows(table: Table, options: argparse.Namespace) -> tuple[str, ...]:
    """Return the selected rows; none stands for all."""
    if options.rows == [ALL] or options.record:
        return ()
    if options.rows:
        return tuple(options.rows)
    return table.first_rows if options.scale == "proxy" else ()


def _seeds(words: Sequence[str]) -> tuple[int, ...]:
    """Parse ``0 1 2``, ``0-4`` or a mixture."""
    seeds: list[int] = []
    for word in words:
        first, separator, last = word.partition("-")
        ends = [int(end) for end in ((first, last) if separator else (first,)) if _is_seed(end)]
        if len(ends) != 1 + len(separator):
            raise UserError(
                f"`--seeds` must be numbers or ranges, got {shown(word)}. Use for instance 0 1 2 "
                f"or 0-4, each from 0 to {SEED.high}."
            )
        if len(seeds) + ends[-1] - ends[0] >= MOST_SEEDS:
            raise UserError(
                f"`--seeds` must name at most {MOST_SEEDS} seeds, got {' '.join(words)}. Each has "
                "a run of its own: name fewer."
            )
        seeds += range(ends[0], ends[-1] + 1)
    if not seeds:
        raise UserError(f"`--seeds {' '.join(words)}` names no seed. Write the lower one first.")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"`--seeds {' '.join(words)}` names a seed twice. Name each once.")
    return tuple(seeds)


def _is_seed(text: str) -> bool:
    return re.fullmatch("[0-9]{1,10}", text) is not None and int(text) in SEED


def _parser(table: Table) -> Parser:
    several = any(len(table.trainings(row)) > 1 for row in table.rows)
    variants = ", or one training as ROW/VARIANT" if several else ""
    default = "all by default"
    if table.first_rows:
        default = f"{' '.join(table.first_rows)} by default at proxy scale; all: every row"
    rows = f"rows by the names below{variants}; {default}"
    parser = Parser(
        prog=table.script.name,
        description=f"Reproduce {table.name}.",
        epilog=epilog(table).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--scale", choices=SCALES, default="proxy", help="proxy by default; see below")
    add("--data", help="DIR, hf:NAME or arrow:DIR, for --scale paper")
    for name, what in {**table.other_data, **table.optional_data}.items():
        add(f"--{name}", metavar="DIR", help=f"{what}, for --scale paper")
    if table.label_lists:
        files = " and ".join(table.label_lists.files.values())
        what = f"folder with {files}, {table.label_lists.what}, for --scale paper"
        add(f"--{table.label_lists.option}", metavar="DIR", help=what.replace("%", "%%"))
    if table.ood_sets:
        ood = f"a published set in its folder, of {', '.join(table.ood_sets)}, for --scale paper"
        add("--ood", metavar="NAME=DIR", action="append", default=[], help=ood)
    add("--rows", nargs="+", metavar="ROW", help=rows)
    add("--seeds", nargs="+", metavar="SEED", help="numbers or ranges: 0 1 2 or 0-4")
    fields = "for instance pretrain.epochs=5; the fields stand below"
    add("--set", action="append", metavar="FIELD=VALUE", help=fields)
    add(
        "--processes",
        type=integer(Small),
        help="one for each GPU by default; gloo processes on a CPU",
    )
    add(
        "--jobs",
        type=integer(Small),
        help="runs side by side on a CPU; one for each core by default",
    )
    add("--workers", type=integer(SmallOrZero), help="decoding processes of each training process")
    add("--mixed-precision", choices=PRECISIONS, help="float32 by default")
    parts = "micro-batches, where the method allows it"
    add("--accumulate", type=integer(Count), default=1, help=parts)
    add("--compile", action="store_true", help="torch.compile the encoders")
    add("--resident", action="store_true", help="keep the decoded images on the device")
    steps = "stop each training after this many steps; nothing is compared"
    add("--max-steps", type=integer(Count), help=steps)
    add("--skip-unreadable", action="store_true", help="leave out and count unreadable images")
    start = parser.add_mutually_exclusive_group().add_argument
    start("--resume", action="store_true", help="require earlier runs to continue from")
    start("--fresh", action="store_true", help="delete earlier runs of these rows first")
    other = "keep runs that were made by other code or of other data; the table says so"
    add("--accept-other", nargs="+", choices=("code", "data"), default=[], help=other)
    add("--full", action="store_true", help="print the whole comparison, as in table.md")
    add("--dry-run", action="store_true", help="print what the runs cost; --full: every recipe")
    gpus = "with --dry-run: state the hours on a GPU whose rate is published"
    add("--gpu", choices=tuple(PUBLISHED), default="", help=gpus)
    add("--record", action="store_true", help="store the metrics as this table's proxy references")
    add("--extend", action="store_true", help="with --record: add --seeds to those that are stored")
    folder = "folder of results; ./runs by default"
    add("--runs", dest="folder", metavar="RUNS", type=Path, default=Path("runs"), help=folder)
    add("--tensorboard", action="store_true", help="also write TensorBoard events")
    add("--quiet", action="store_true", help="no progress bars")
    return parser
