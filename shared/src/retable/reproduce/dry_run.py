"""``--dry-run``: what would run, with what, and what it would take."""

from __future__ import annotations

import json

from retable.distributed import process_count
from retable.reproduce.plan import Run, price
from retable.reproduce.table import Table
from retable.runs import describe


def render_plan(table: Table, runs: list[Run], scale: str, images: int) -> str:
    """Describe every run: its resolved recipe, its evaluations, images and operations.

    Args:
        table: the table.
        runs: what would run.
        scale: its name, for the head line.
        images: training images of the data set.
    """
    lines = [f"{table.name} at {scale} scale: {len(runs)} runs on {images:,} training images"]
    total = 0.0
    for run in runs:
        cost = price(run.recipe, images)
        total += cost.flops
        lines += [
            "",
            f"{', '.join(run.rows)}  seed {run.seed}  {run.name}",
            f"  {run.recipe.epochs} epochs, {cost.steps:,} steps of {run.recipe.batch} images: "
            f"{cost.images:,} images, {_operations(cost.flops)} in the encoder",
        ]
        lines += [f"  pretrain  {_one_line(run.recipe)}"]
        lines += [f"  evaluate  {_one_line(evaluation)}" for evaluation in run.evaluations]
    lines += ["", f"Pretraining in all: {_operations(total)} in the encoders."]
    if process_count() == 1:
        lines.append("Nothing was run.")
    return "\n".join(lines)


def _operations(flops: float) -> str:
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if flops >= size:
            return f"{flops / size:,.1f} {unit}"
    return f"{flops / 1e9:,.1f} GFLOP"


def _one_line(recipe: object) -> str:
    return json.dumps(describe(recipe), ensure_ascii=False)
