"""``--dry-run``: the planned runs, their recipes and their cost."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from retable.distributed import process_count
from retable.reproduce.plan import price, price_evaluation
from retable.reproduce.run import Run
from retable.reproduce.table import Table
from retable.settings import to_plain
from retable.train.memory import training_memory
from retable.train.recipe import PretrainRecipe

MOST_DIFFERENCES = 8
"""Largest number of differing fields for which a recipe is described by its differences."""


def render_plan(table: Table, runs: list[Run], scale: str, images: int, parts: int = 1) -> str:
    """Describe every run: its resolved recipe, its evaluations, images, operations and memory.

    A recipe that differs from an earlier one in a few fields is described by these, as ``--set``
    takes them. Other recipes are printed in full, as JSON (`retable.settings.to_plain`).

    Args:
        table: The table.
        runs: The planned runs.
        scale: Name of the scale, for the first line.
        images: Training images of the data set.
        parts: Parts that a batch is split into, over processes and micro-batches.

    Raises:
        UserError: a method cannot split its batch like this.
    """
    lines = [f"{table.name} at {scale} scale: {len(runs)} runs on {images:,} training images"]
    total = 0.0
    earlier: list[tuple[Run, dict[str, str]]] = []
    for run in runs:
        cost = price(run.recipe, images)
        total += cost.flops
        lines += [
            "",
            f"{', '.join(run.rows)}  seed {run.seed}  {run.name}",
            f"  {run.recipe.epochs} epochs, {cost.steps:,} steps of {run.recipe.batch} images: "
            f"{cost.images:,} images, {operations(cost.flops)} in the encoder",
            f"  memory about {_gibibytes(run.recipe, parts)} GiB for {run.recipe.batch // parts:,} "
            "images a process",
        ]
        for evaluation in run.evaluations:
            labelled = evaluation.data.training_images(images)
            extra = price_evaluation(evaluation, run.recipe.encoder, labelled)
            if extra is not None:
                total += extra.flops
                lines.append(
                    f"  {evaluation.name}: {extra.steps:,} steps, {extra.images:,} images, "
                    f"{operations(extra.flops)} in the encoder"
                )
        own = fields_of(run)
        lines += _recipes(run, own, earlier)
        earlier.append((run, own))
    lines += [
        "",
        f"Pretraining in all: {operations(total)} in the encoders.",
        "Processes share a batch and what it takes of the memory.",
    ]
    if process_count() == 1:
        lines.append("Nothing was run.")
    return "\n".join(lines)


def _recipes(run: Run, own: dict[str, str], earlier: list[tuple[Run, dict[str, str]]]) -> list[str]:
    """Return the run's recipes in full, or their differences from the most similar run."""
    changes = [
        (other, [f"{path}={value}" for path, value in own.items() if fields[path] != value])
        for other, fields in earlier
        if fields.keys() == own.keys()
    ]
    if changes:
        other, changed = min(changes, key=lambda change: len(change[1]))
        if len(changed) <= MOST_DIFFERENCES:
            but = f", but {' '.join(changed)}" if changed else ""
            return [f"  as {other.rows[0]} with seed {other.seed}{but}"]
    evaluations = (f"  evaluate  {_one_line(evaluation)}" for evaluation in run.evaluations)
    return [f"  pretrain  {_one_line(run.recipe)}", *evaluations]


def fields_of(run: Run) -> dict[str, str]:
    """Return every field of a run's recipes by its path, as the JSON that ``--set`` takes.

    Views are items of a list, which ``--set`` does not reach; their paths contain their numbers.
    """
    recipes = {"pretrain": run.recipe, **{each.name: each for each in run.evaluations}}
    return dict(_flat("", {name: to_plain(recipe) for name, recipe in recipes.items()}))


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the plain values, and lists of such, within a value."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{path}.{name}" if path else name, inner)
    else:
        yield path, json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def operations(flops: float) -> str:
    """Write floating-point operations with a unit."""
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if flops >= size:
            return f"{flops / size:,.1f} {unit}"
    return f"{flops / 1e9:,.1f} GFLOP"


@functools.cache  # seeds differ in nothing that takes memory
def _gibibytes(recipe: PretrainRecipe, parts: int) -> str:
    needed = training_memory(recipe, recipe.batch // parts) / 2**30
    return f"{needed:,.1f}" if needed >= 1 else f"{needed:.2g}"


def _one_line(recipe: object) -> str:
    return json.dumps(to_plain(recipe), ensure_ascii=False)
