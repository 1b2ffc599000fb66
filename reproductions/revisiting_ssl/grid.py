"""Grid of Tables 2 to 4: six encoders, four pretext tasks and several widths, 66 trainings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.revisiting_ssl.grid_curves import draw_scatter, draw_widths
from reproductions.revisiting_ssl.grid_order import draw_order
from reproductions.revisiting_ssl.grid_ranks import draw_ranks
from reproductions.revisiting_ssl.grid_report import write_analyses
from reproductions.revisiting_ssl.recipes import (
    ENCODERS,
    IMAGENET_IMAGES,
    PLACES,
    WIDENINGS,
    pretraining,
)
from reproductions.revisiting_ssl.scales import proxy_of_the_grid, smoke_of_the_grid
from retable.evaluate.protocol import Evaluation
from retable.reproduce import Metric, Table, TableRow

CELLS = {f"{task}_{k}x": (task, k) for task, widenings in WIDENINGS.items() for k in widenings}
"""Column key -> pretext task and widening factor."""

OF_CLAIMS = tuple(
    f"{encoder}/{cell}"
    for encoder in ("resnet50_v1", "revnet50")
    for cell in ("relpatchloc_8x", "jigsaw_8x")
)
"""Trainings of the claims that the small grid can test."""


def grid_table(
    script: Path,
    printed: str,
    evaluations: Callable[[str], tuple[Evaluation, ...]],
    check_rows: tuple[str, ...],
) -> Table:
    """Return one of the three tables.

    Args:
        script: script of the table.
        printed: name of the evaluation whose accuracy the table prints.
        evaluations: function of the task that returns the evaluations of its encoders.
        check_rows: see `Table`.
    """
    return Table(
        script=script,
        rows={
            name: {
                cell: TableRow(pretraining(task, encoder, k), evaluations(task))
                for cell, (task, k) in CELLS.items()
            }
            for name, encoder in ENCODERS.items()
        },
        columns={cell: Metric(f"{printed}.top1", variant=cell) for cell in CELLS},
        proxy=proxy_of_the_grid,
        smoke=smoke_of_the_grid,
        images=IMAGENET_IMAGES,
        other_data={} if printed.startswith("imagenet") else PLACES,
        facts=FACTS,
        check_rows=check_rows,
        first_rows=(*check_rows, *OF_CLAIMS),
        plots=(write_analyses, draw_order, draw_ranks, draw_widths, draw_scatter),
    )
