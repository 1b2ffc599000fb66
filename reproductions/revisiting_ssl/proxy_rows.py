"""Proxy trainings of Table 2 by task, for the studies that compare tasks with one encoder."""

from __future__ import annotations

import argparse
from pathlib import Path

from grid_readings import TASKS
from table2 import TABLE

from retable.errors import UserError
from retable.evaluate.logistic.probe import LogisticProbe
from retable.reproduce.plan import TableSelection, resolve_rows
from retable.reproduce.run import Run
from retable.reproduce.table import TableRow, training_name


def options_of(description: str) -> argparse.ArgumentParser:
    """Return a command's parser with the options that these studies have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    return parser


def options_of_one_encoder(description: str) -> argparse.ArgumentParser:
    """Return the same with a choice of the encoder whose tasks are compared."""
    parser = options_of(description)
    parser.add_argument("--encoder", choices=list(TABLE.rows), default="resnet50_v1")
    parser.add_argument("--width", type=int, default=4)
    return parser


def rows_of(encoder: str, width: int) -> dict[str, TableRow]:
    """Return task -> its row of Table 2's proxy.

    Raises:
        UserError: the proxy leaves the encoder or the width out.
    """
    resolved = resolve_rows(TABLE, TableSelection(rows=(encoder,)))
    names = {task: training_name(encoder, f"{task}_{width}x") for task in TASKS}
    if missing := [name for name in names.values() if name not in resolved]:
        raise UserError(
            f"The proxy of Table 2 has no {missing[0]}: expected one of {', '.join(resolved)}."
        )
    return {task: resolved[name] for task, name in names.items()}


def linear_of(judged: TableRow | Run) -> LogisticProbe:
    """Return the linear evaluation with all labels."""
    (probe,) = (one for one in judged.evaluations if one.name == "imagenet")
    assert isinstance(probe, LogisticProbe)
    return probe
