"""Rows of Table 2 at proxy scale by task, and the options of the studies that use them."""

from __future__ import annotations

import argparse
from pathlib import Path

from reproductions.revisiting_ssl.grid_readings import TASKS
from reproductions.revisiting_ssl.table2 import TABLE
from retable.domains import SEED, Small, integer
from retable.errors import UserError
from retable.evaluate.logistic.probe import LogisticProbe
from retable.reproduce.plan import TableSelection, resolve_rows
from retable.reproduce.run import Run
from retable.reproduce.table import TableRow, training_name


def options_of(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of all studies."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=integer(SEED), nargs="+", default=[0])
    parser.add_argument("--jobs", type=integer(Small), default=2, help="trainings side by side")
    return parser


def options_of_one_encoder(description: str) -> argparse.ArgumentParser:
    """Return a parser for the studies that compare the tasks of one encoder."""
    parser = options_of(description)
    parser.add_argument("--encoder", choices=list(TABLE.rows), default="resnet50_v1")
    parser.add_argument("--width", type=integer(Small), default=4)
    return parser


def rows_of(encoder: str, width: int) -> dict[str, TableRow]:
    """Return task -> row of Table 2 at proxy scale.

    Raises:
        UserError: the proxy scale leaves out the encoder or the width.
    """
    resolved = resolve_rows(TABLE, TableSelection(rows=(encoder,)))
    names = {task: training_name(encoder, f"{task}_{width}x") for task in TASKS}
    if missing := [name for name in names.values() if name not in resolved]:
        raise UserError(
            f"Table 2 has no row {missing[0]} at proxy scale: choose from {', '.join(resolved)}."
        )
    return {task: resolved[name] for task, name in names.items()}


def linear_of(row: TableRow | Run) -> LogisticProbe:
    """Return the linear evaluation of a row with all labels."""
    (probe,) = (one for one in row.evaluations if one.name == "imagenet")
    assert isinstance(probe, LogisticProbe)
    return probe
