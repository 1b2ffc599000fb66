"""The runs that a selection of a table needs: resolved, without repetition, with their cost."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from retable.encoders import EncoderRecipe, ResNetRecipe
from retable.errors import UserError
from retable.evaluate.protocol import Evaluation
from retable.reproduce.run import Run
from retable.reproduce.table import Table, TableRow
from retable.settings import parse_setting, with_field
from retable.train.cost import forward_flops
from retable.train.recipe import PretrainRecipe
from retable.train.shape_inference import shapes_only


@dataclass(frozen=True)
class TableSelection:
    """The part of a table that a command runs, and changes of its recipes.

    Attributes:
        scale: "proxy", "paper" or "smoke".
        data: Data set of the pretraining at paper scale.
        other_data: (name, data set) of the further data sets that the table evaluates on.
        rows: Rows to run; empty for all.
        seeds: Seeds to run.
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
    """Return the selected rows at their scale, with data and overrides filled in.

    Returns:
        One `TableRow` for each training, by the names of `training_name`: all trainings of a
        selected row that the scale runs, or the one variant that is selected as "row/variant".

    Raises:
        UserError: a row is unknown or not part of the scale, or an override fits no field.
    """
    asked = {name: _trainings(table, name) for name in selection.rows}
    unknown = [name for name, trainings in asked.items() if not trainings]
    if unknown:
        raise UserError(
            f"{table.name} has no row {', '.join(unknown)}. Choose from {', '.join(table.rows)}."
        )
    if selection.data is not None and selection.scale != "paper":
        raise UserError(
            f"--data {selection.data} belongs to --scale paper. The {selection.scale} scale uses "
            "the built-in data set."
        )
    rows = {
        name: resolved
        for row in table.rows
        for name, training in table.trainings(row).items()
        if not selection.rows or row in asked or name in asked
        if (resolved := _resolve(table, training, selection)) is not None
    }
    for name, trainings in asked.items():
        if rows.keys().isdisjoint(trainings):
            raise UserError(
                f"{table.name} has no row {name} at {selection.scale} scale. Leave it out of "
                "--rows, or choose --scale paper."
            )
    return rows


def _trainings(table: Table, name: str) -> set[str]:
    """Return the trainings that a value of ``--rows`` names: those of a row, or a single one."""
    if name in table.rows:
        return set(table.trainings(name))
    return {name} & {each for row in table.rows for each in table.trainings(row)}


def _resolve(table: Table, row: TableRow, selection: TableSelection) -> TableRow | None:
    if selection.scale == "paper":
        pretrain = dataclasses.replace(row.pretrain, data=selection.data or "", subset=table.subset)
        known = dict(selection.other_data)
        row = TableRow(pretrain, tuple(e.on_data(known) for e in row.evaluations))
    else:
        small = _shrunk(table, row, selection.scale)
        if small is None:
            return None
        row = small
    changes: dict[str, object] = {}
    if selection.precision is not None:
        changes["precision"] = selection.precision
    if selection.max_steps is not None:
        changes["max_steps"] = selection.max_steps
        row = dataclasses.replace(
            row,
            evaluations=tuple(e.limited(selection.max_steps) for e in row.evaluations),
        )
    row = dataclasses.replace(row, pretrain=dataclasses.replace(row.pretrain, **changes))  # type: ignore[arg-type]
    return apply_overrides(row, selection.overrides)


def _shrunk(table: Table, row: TableRow, scale: str) -> TableRow | None:
    return (table.proxy if scale == "proxy" else table.smoke)(row)


def trainings_at_scale(table: Table, row: str, scale: str) -> set[str]:
    """Return the names of a row's trainings that a scale runs."""
    return {
        name
        for name, training in table.trainings(row).items()
        if scale == "paper" or _shrunk(table, training, scale) is not None
    }


def plan_runs(rows: Mapping[str, TableRow], seeds: Iterable[int]) -> list[Run]:
    """Return the runs of all rows, seed by seed; rows with the same pretraining share a run.

    Args:
        rows: The trainings, as `resolve_rows` returns them.
        seeds: The seeds, in the order of the runs.
    """
    runs: dict[tuple[PretrainRecipe, int], Run] = {}
    for seed in seeds:
        for name, row in rows.items():
            known = runs.get((row.pretrain, seed))
            if known is None:
                runs[row.pretrain, seed] = Run(row.pretrain, seed, row.evaluations, (name,))
            else:
                new = tuple(e for e in row.evaluations if e not in known.evaluations)
                runs[row.pretrain, seed] = dataclasses.replace(
                    known, evaluations=known.evaluations + new, rows=(*known.rows, name)
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
        row = _with_override(row, path, value)
    return row


def _with_override(row: TableRow, path: str, value: object) -> TableRow:
    head, *names = path.split(".")
    evaluations = {evaluation.name: evaluation for evaluation in row.evaluations}
    if head == "pretrain" and names:
        return dataclasses.replace(row, pretrain=with_field(row.pretrain, names, value, path))
    if head in evaluations and names:
        evaluations[head] = with_field(evaluations[head], names, value, path)
        return dataclasses.replace(row, evaluations=tuple(evaluations.values()))
    choices = ", ".join(f"{name}.FIELD" for name in ("pretrain", *evaluations))
    raise UserError(f"`--set {path}` must name a field of a row, one of {choices}.")


@dataclass(frozen=True)
class Price:
    """Cost of a pretraining: images seen, optimizer steps, floating-point operations."""

    images: int
    steps: int
    flops: float


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
    """Estimate the encoder's training in an evaluation, None where there is none.

    Args:
        evaluation: the evaluation.
        encoder: the evaluated encoder.
        images: training images that keep their labels.
        size: side of its training view in pixels, where it has none of its own.
    """
    budget = evaluation.budget(images, size)
    if budget is None:
        return None
    flops = budget.images * budget.passes * _forward_flops(encoder, budget.size)
    return Price(budget.images, budget.steps, flops)


@functools.lru_cache(maxsize=256)
def _forward_flops(recipe: EncoderRecipe, side: int) -> float:
    with shapes_only():
        return forward_flops(recipe.build(0), side)


@functools.lru_cache(maxsize=256)
def _encoder_inputs(recipe: PretrainRecipe) -> tuple[tuple[int, float], ...]:
    """Ask the method itself, built around the smallest encoder: its inputs depend on none."""
    with shapes_only():
        encoder = ResNetRecipe("small_resnet8").build(0)
        method = recipe.method.build(encoder, 0)
    return method.encoder_inputs([view.size for view in recipe.views])
