"""The runs that a selection of a table needs, their cost, and their description (``--dry-run``)."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from retable.distributed import process_count
from retable.encoders import EncoderRecipe, ResNetRecipe
from retable.errors import UserError
from retable.evaluate.protocol import Evaluation
from retable.reproduce.run import Run
from retable.reproduce.table import Table, TableRow
from retable.settings import flatten, parse_setting, to_plain, with_field
from retable.train.cost import forward_flops
from retable.train.memory import training_memory
from retable.train.recipe import PretrainRecipe
from retable.train.shape_inference import shapes_only

MOST_DIFFERENCES = 8
"""Largest number of differing fields for which a recipe is described by its differences."""


@dataclass(frozen=True)
class TableSelection:
    """The part of a table that a command runs, and changes of its recipes.

    Attributes:
        scale: "proxy", "paper" or "smoke".
        data: Data set of the pretraining at paper scale.
        other_data: (name, data set) of the further data sets that the table evaluates on.
        rows: Rows, or trainings as "row/variant"; empty for all.
        overrides: Changes of the recipes, as "field=value".
        precision: Precision of the encoders, instead of the recipes'.
        max_steps: Steps after which each training stops.
    """

    scale: str = "proxy"
    data: str | None = None
    other_data: tuple[tuple[str, str], ...] = ()
    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    overrides: tuple[str, ...] = ()
    precision: str | None = None
    max_steps: int | None = None


def resolve_rows(table: Table, selection: TableSelection) -> dict[str, TableRow]:
    """Return the trainings of the selected rows at their scale, with data and overrides filled in.

    They are named by `training_name`; a scale may leave some of them out.

    Raises:
        UserError: a row is unknown or not part of the scale, or an override fits no field.
    """
    named = {row: set(table.trainings(row)) for row in table.rows}
    named |= {name: {name} for trainings in named.values() for name in trainings}
    if unknown := [name for name in selection.rows if name not in named]:
        raise UserError(
            f"{table.name} has no row {', '.join(unknown)}. Choose from {', '.join(table.rows)}."
        )
    for name, data in (("data", selection.data), *selection.other_data):
        if data is not None and selection.scale != "paper":
            option, _, of_sets = name.partition(":")
            given = f"{of_sets}={data}" if of_sets else data
            raise UserError(
                f"--{option} {given} belongs to --scale paper. The {selection.scale} scale uses "
                "the built-in data set."
            )
    rows = {
        name: resolved
        for row in table.rows
        for name, training in table.trainings(row).items()
        if not selection.rows or not {row, name}.isdisjoint(selection.rows)
        if (resolved := _resolve(table, training, selection)) is not None
    }
    for name in selection.rows:
        if rows.keys().isdisjoint(named[name]):
            raise UserError(
                f"{table.name} has no row {name} at {selection.scale} scale. Leave it out of "
                "--rows, or choose --scale paper."
            )
    return rows


def _resolve(table: Table, training: TableRow, selection: TableSelection) -> TableRow | None:
    row = table.shrunk(training, selection.scale)
    if row is None:
        return None
    pretrain, evaluations = row.pretrain, row.evaluations
    if selection.scale == "paper":
        pretrain = replace(pretrain, data=selection.data or "", subset=table.subset)
        known = dict(selection.other_data)
        left_out = table.optional_data.keys() - known.keys()
        evaluations = tuple(
            each.on_data(known) for each in evaluations if each.data.source not in left_out
        )
        lists = table.label_lists
        if lists is not None and (folder := known.get(lists.option)):
            evaluations = tuple(lists.used_by(each, folder) for each in evaluations)
    if selection.precision is not None:
        pretrain = replace(pretrain, precision=selection.precision)
    if (steps := selection.max_steps) is not None:
        pretrain = replace(pretrain, max_steps=steps)
        evaluations = tuple(e.limited(steps) for e in evaluations)
    return apply_overrides(TableRow(pretrain, evaluations), selection.overrides)


def plan_runs(rows: Mapping[str, TableRow], seeds: Iterable[int]) -> list[Run]:
    """Return the runs of the trainings ``rows``, seed by seed; equal pretrainings share a run."""
    runs: dict[tuple[PretrainRecipe, int], Run] = {}
    for seed in seeds:
        for name, row in rows.items():
            run = runs.get((row.pretrain, seed), Run(row.pretrain, seed, (), ()))
            new = tuple(e for e in row.evaluations if e not in run.evaluations)
            runs[row.pretrain, seed] = replace(
                run, evaluations=run.evaluations + new, rows=(*run.rows, name)
            )
    return list(runs.values())


def apply_overrides(row: TableRow, overrides: Iterable[str]) -> TableRow:
    """Return the row with each ``path=value`` of ``--set`` applied.

    A path starts at the row, for instance ``pretrain.epochs``, ``pretrain.method.temperature`` or
    ``linear.lr`` (an evaluation by its name). Values are JSON, or plain text where that fails.

    Raises:
        UserError: no such field, or a value of another type.
    """
    for override in overrides:
        path, value = parse_setting(override)
        head, *names = path.split(".")
        evaluations = {evaluation.name: evaluation for evaluation in row.evaluations}
        if head == "pretrain" and names:
            row = replace(row, pretrain=with_field(row.pretrain, names, value, path))
        elif head in evaluations and names:
            evaluations[head] = with_field(evaluations[head], names, value, path)
            row = replace(row, evaluations=tuple(evaluations.values()))
        else:
            choices = ", ".join(f"{name}.FIELD" for name in ("pretrain", *evaluations))
            raise UserError(f"`--set {path}` must name a field of a row, one of {choices}.")
    return row


def operations(flops: float) -> str:
    """Write floating-point operations with a unit."""
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if flops >= size:
            return f"{flops / size:,.1f} {unit}"
    return f"{flops / 1e9:,.1f} GFLOP"


@dataclass(frozen=True)
class Price:
    """Cost of a training: images seen, optimizer steps, floating-point operations.

    ``memory`` is in bytes, for one process that holds the whole batch; None: not estimated.
    """

    images: int
    steps: int
    flops: float
    memory: float | None = None

    def __str__(self) -> str:
        done = f"{self.steps:,} steps, {self.images:,} images"
        done = f"{done}, {operations(self.flops)} in the encoder"
        if self.memory is None:
            return done
        return f"{done}, memory about {gibibytes(self.memory)} GiB for a whole batch"


def price(recipe: PretrainRecipe, images: int) -> Price:
    """Estimate a pretraining on a data set of ``images`` training images."""
    steps = recipe.epochs * (images // recipe.batch)
    if recipe.max_steps is not None:
        steps = min(steps, recipe.max_steps)
    inputs = _encoder_inputs(recipe)
    per_image = sum(passes * _forward_flops(recipe.encoder, side) for side, passes in inputs)
    return Price(steps * recipe.batch, steps, steps * recipe.batch * per_image)


def price_evaluation(
    evaluation: Evaluation, encoder: EncoderRecipe, images: int, size: int = 224
) -> Price | None:
    """Estimate the training of ``encoder`` in an evaluation, None where there is none.

    ``images`` is the number of training images that keep their labels, ``size`` the side of the
    training view in pixels, where the evaluation states none.
    """
    budget = evaluation.budget(images, size)
    if budget is None:
        return None
    flops = budget.images * budget.passes * _forward_flops(encoder, budget.size)
    return Price(budget.images, budget.steps, flops, _memory(evaluation, encoder, images, size))


@functools.lru_cache(maxsize=256)
def _memory(evaluation: Evaluation, encoder: EncoderRecipe, images: int, size: int) -> float | None:
    return evaluation.memory(encoder, images, size)


@functools.lru_cache(maxsize=256)
def _forward_flops(recipe: EncoderRecipe, side: int) -> float:
    with shapes_only():
        return forward_flops(recipe.build(0), side)


@functools.lru_cache(maxsize=256)
def _encoder_inputs(recipe: PretrainRecipe) -> tuple[tuple[int, float], ...]:
    with shapes_only():  # around the smallest encoder: a method's inputs depend on none
        method = recipe.method.build(ResNetRecipe("small_resnet8").build(0), 0)
    return method.encoder_inputs([view.size for view in recipe.views])


def render_plan(table: Table, runs: list[Run], scale: str, images: int, parts: int = 1) -> str:
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
            f"  memory about {_gibibytes(run.recipe, parts)} GiB for {run.recipe.batch // parts:,} "
            "images a process",
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


@functools.cache  # seeds differ in nothing that takes memory
def _gibibytes(recipe: PretrainRecipe, parts: int) -> str:
    return gibibytes(training_memory(recipe, recipe.batch // parts))


def gibibytes(count: float) -> str:
    """Write a number of bytes in GiB."""
    needed = count / 2**30
    return f"{needed:,.1f}" if needed >= 1 else f"{needed:.2g}"
