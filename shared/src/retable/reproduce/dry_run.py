"""``--dry-run``: what would run, with what, and what it would take."""

from __future__ import annotations

import json

from retable.distributed import process_count
from retable.memory import training_memory
from retable.recipes import PretrainRecipe
from retable.reproduce.plan import Run, price
from retable.reproduce.table import Table
from retable.runs import describe


def render_plan(table: Table, runs: list[Run], scale: str, images: int, parts: int = 1) -> str:
    """Describe every run: its resolved recipe, its evaluations, images, operations and memory.

    Args:
        table: the table.
        runs: what would run.
        scale: its name, for the head line.
        images: training images of the data set.
        parts: of a batch, over processes and micro-batches.

    Raises:
        UserError: a method cannot share its batch so.
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
            f"  memory about {_gibibytes(run.recipe, parts)} GiB for {run.recipe.batch // parts:,} "
            "images a process",
        ]
        lines += [f"  pretrain  {_one_line(run.recipe)}"]
        lines += [f"  evaluate  {_one_line(evaluation)}" for evaluation in run.evaluations]
    lines += [
        "",
        f"Pretraining in all: {_operations(total)} in the encoders.",
        "Processes share a batch and what it takes of the memory.",
    ]
    if process_count() == 1:
        lines.append("Nothing was run.")
    return "\n".join(lines)


def _operations(flops: float) -> str:
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if flops >= size:
            return f"{flops / size:,.1f} {unit}"
    return f"{flops / 1e9:,.1f} GFLOP"


def _gibibytes(recipe: PretrainRecipe, parts: int) -> str:
    needed = training_memory(recipe, recipe.batch // parts).total / 2**30
    return f"{needed:,.1f}" if needed >= 1 else f"{needed:.2g}"


def _one_line(recipe: object) -> str:
    return json.dumps(describe(recipe), ensure_ascii=False)
