"""What ``--dry-run`` prints: a table of prices, or with ``--full`` every recipe too."""

from __future__ import annotations

import json
from collections.abc import Sequence

from retable.distributed import process_count
from retable.reproduce.pricing import (
    Price,
    Rate,
    gibibytes,
    needed_memory,
    operations,
    price,
    price_evaluation,
)
from retable.reproduce.run import Run
from retable.reproduce.table import Table
from retable.settings import flatten, to_plain
from retable.tables.document import Cells
from retable.tables.terminal import write_cells
from retable.train.memory import training_memory

MOST_DIFFERENCES = 8
"""Largest number of differing fields for which a recipe is described by its differences."""


def render_prices(
    table: Table,
    runs: Sequence[Run],
    scale: str,
    images: int,
    parts: int = 1,
    *,
    rate: Rate | None = None,
    devices: int = 1,
    width: int = 100,
) -> str:
    """Return a table of rows, seeds, steps, images, operations, memory, and time.

    ``images`` is the number of training images of the data set, ``parts`` are those that a batch is
    split into. Without a ``rate``, of each of the ``devices``, no time is known. Runs that differ
    in their seed alone are one line, and the trainings of their evaluations follow.
    """
    heads = ["row", "seeds", "steps", "images", "operations", "GiB a process", "time"]
    lines: list[list[str]] = []
    total = disk = 0.0
    for first, seeds in _by_seed(runs):
        cost = price(first.recipe, images)
        memory = needed_memory(first.recipe, parts)
        count = len(seeds)
        named = " ".join(map(str, seeds))
        lines.append(_line(", ".join(first.rows), named, cost, memory, count, rate, devices))
        total += count * cost.flops
        disk += count * 2 * training_memory(first.recipe, 0)  # two states are kept
        for evaluation in first.evaluations:
            labelled = evaluation.data.training_images(images)
            extra = price_evaluation(evaluation, first.recipe.encoder, labelled)
            if extra is not None:
                total += count * extra.flops
                needed = extra.memory or 0.0
                lines.append(
                    _line(f"  {evaluation.name}", "", extra, needed / parts, count, rate, devices)
                )
    if rate is None:
        heads, lines = heads[:-1], [line[:-1] for line in lines]
    # Of a table of cells the last column is text, of which there is none here.
    cells = Cells([*heads, ""], [[*line, ""] for line in lines])
    text = [
        f"{table.name} at {scale} scale: {len(runs)} runs on {images:,} training images",
        "",
        "\n".join(line.rstrip() for line in write_cells(cells, width).split("\n")),
        "",
        f"In all {operations(total)} in the encoders, and at most {gibibytes(disk)} GiB of disk.",
    ]
    if rate is not None:
        on = f"{devices} device{'s' if devices > 1 else ''}"
        text.append(f"{_time(total, rate, devices)} on {on} at least: {rate.source}.")
    else:
        text.append("With --gpu a100 the time is stated.")
    text.append("--full shows every recipe.")
    if process_count() == 1:
        text.append("Nothing was run.")
    return "\n".join(text)


def _by_seed(runs: Sequence[Run]) -> list[tuple[Run, list[int]]]:
    """Return the first of the runs of each recipe, with the seeds of all."""
    found: dict[tuple[object, ...], tuple[Run, list[int]]] = {}
    for run in runs:
        key = (run.recipe, run.evaluations, run.rows)
        found.setdefault(key, (run, []))[1].append(run.seed)
    return list(found.values())


def _line(
    name: str, seeds: str, cost: Price, memory: float, count: int, rate: Rate | None, devices: int
) -> list[str]:
    spent = "" if rate is None else _time(count * cost.flops, rate, devices)
    return [
        name,
        seeds,
        f"{cost.steps:,}",
        f"{cost.images:,}",
        operations(cost.flops),
        gibibytes(memory),
        spent,
    ]


def _time(flops: float, rate: Rate, devices: int) -> str:
    minutes = flops / rate.flops / devices / 60
    return f"{minutes / 60:,.0f} h" if minutes >= 600 else f"{max(1, round(minutes)):,} min"


def render_recipes(
    table: Table, runs: Sequence[Run], scale: str, images: int, parts: int = 1
) -> str:
    """Describe every run: its resolved recipe, its evaluations, images, operations and memory.

    A recipe that differs from an earlier one in a few fields is described by these, as ``--set``
    takes them. Other recipes are printed in full, as JSON (`retable.settings.to_plain`).

    ``images`` is the number of training images of the data set; ``parts`` are those that a batch is
    split into, over processes and micro-batches.
    """
    lines = [f"{table.name} at {scale} scale: {len(runs)} runs on {images:,} training images"]
    total = 0.0
    earlier: dict[Run, dict[str, str]] = {}
    for run in runs:
        cost = price(run.recipe, images)
        total += cost.flops
        lines += [
            "",
            f"{', '.join(run.rows)}  seed {run.seed}  {run.name}",
            f"  {run.recipe.epochs} epochs, {cost.steps:,} steps of {run.recipe.batch} images: "
            f"{cost.images:,} images, {operations(cost.flops)} in the encoder",
            f"  memory about {gibibytes(needed_memory(run.recipe, parts))} GiB for "
            f"{run.recipe.batch // parts:,} images a process",
        ]
        for evaluation in run.evaluations:
            labelled = evaluation.data.training_images(images)
            extra = price_evaluation(evaluation, run.recipe.encoder, labelled)
            if extra is not None:
                total += extra.flops
                lines.append(f"  {evaluation.name}: {extra}")
        lines += _recipes(run, earlier)
    lines += [
        "",
        f"Pretraining in all: {operations(total)} in the encoders.",
        "Processes share a batch and what it takes of the memory.",
    ]
    if process_count() == 1:
        lines.append("Nothing was run.")
    return "\n".join(lines)


def _recipes(run: Run, earlier: dict[Run, dict[str, str]]) -> list[str]:
    """Return the run's recipes in full, or their differences from the most similar earlier run."""
    # Paths as `--set` takes them; it does not reach views, whose paths have their numbers.
    recipes = {"pretrain": run.recipe, **{each.name: each for each in run.evaluations}}
    fields = flatten({name: to_plain(recipe) for name, recipe in recipes.items()})
    own = {path: json.dumps(v, ensure_ascii=False, separators=(",", ":")) for path, v in fields}
    changes = [
        (other, [f"{path}={value}" for path, value in own.items() if its[path] != value])
        for other, its in earlier.items()
        if its.keys() == own.keys()
    ]
    earlier[run] = own
    if changes:
        other, changed = min(changes, key=lambda change: len(change[1]))
        if len(changed) <= MOST_DIFFERENCES:
            but = f", but {' '.join(changed)}" if changed else ""
            return [f"  as {other.rows[0]} with seed {other.seed}{but}"]
    parts = [("pretrain", run.recipe), *(("evaluate", each) for each in run.evaluations)]
    return [f"  {word}  {json.dumps(to_plain(r), ensure_ascii=False)}" for word, r in parts]
