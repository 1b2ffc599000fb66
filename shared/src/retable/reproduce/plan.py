"""From a table and a command line to the runs it takes: resolved, without repetition, priced."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from retable.encoders import EncoderRecipe, ResNetRecipe, build_encoder
from retable.errors import UserError
from retable.evaluate.protocol import Evaluation
from retable.reproduce.overrides import apply_overrides
from retable.reproduce.table import Table, TableRow
from retable.settings import fingerprint
from retable.train.cost import forward_flops
from retable.train.recipe import PretrainRecipe
from retable.train.shape_inference import shapes_only


@dataclass(frozen=True)
class Run:
    """One pretraining with one seed, and the evaluations that some row wants of it.

    Attributes:
        rows: names of the table's trainings that it is: rows, or variants of rows.
    """

    recipe: PretrainRecipe
    seed: int
    evaluations: tuple[Evaluation, ...]
    rows: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's folder: the method, then a hash of everything that decides the numbers."""
        method = type(self.recipe.method).__name__.removesuffix("Recipe").lower()
        return f"{method}-{fingerprint(self.recipe, self.seed)}"

    @property
    def claim(self) -> dict[str, object]:
        """What its directory is for."""
        return {"pretrain": self.recipe, "seed": self.seed}


@dataclass(frozen=True)
class Request:
    """What the command line asks of a table.

    Attributes:
        scale: "proxy", "paper" or "smoke".
        data: the images to pretrain on, at paper scale.
        other_data: (name, data set) of the further data sets that the table evaluates on.
        rows: rows to run; all if empty.
        seeds: seeds to run.
        overrides: changes of the recipes, "field=value".
        precision: of the encoders, instead of the recipes'.
        max_steps: where each training stops.
    """

    scale: str = "proxy"
    data: str | None = None
    other_data: tuple[tuple[str, str], ...] = ()
    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    overrides: tuple[str, ...] = ()
    precision: str | None = None
    max_steps: int | None = None


def resolve_rows(table: Table, request: Request) -> dict[str, TableRow]:
    """Return the requested rows at the requested scale, with everything filled in.

    Returns:
        One `TableRow` for each training, by the names of `training_name`: of a requested row all
        that the scale does not leave out, or the one variant that was asked for, as "row/variant".

    Raises:
        UserError: an unknown row, one that the scale leaves out, missing data, or an override that
            fits no field.
    """
    asked = {name: _trainings(table, name) for name in request.rows}
    unknown = [name for name, trainings in asked.items() if not trainings]
    if unknown:
        raise UserError(
            f"{table.name} runs no row {', '.join(unknown)}: choose from {', '.join(table.rows)}."
        )
    if request.data is not None and request.scale != "paper":
        raise UserError(
            f"--data {request.data} belongs to --scale paper: the {request.scale} scale uses the "
            "built-in data set."
        )
    rows = {
        name: resolved
        for row in table.rows
        for name, training in table.trainings(row).items()
        if not request.rows or row in asked or name in asked
        if (resolved := _resolve(table, training, request)) is not None
    }
    for name, trainings in asked.items():
        if rows.keys().isdisjoint(trainings):
            raise UserError(
                f"{table.name} leaves the row {name} out at {request.scale} scale: leave it out of "
                "--rows, or choose --scale paper."
            )
    return rows


def _trainings(table: Table, name: str) -> set[str]:
    """Return what a word after ``--rows`` names: all trainings of a row, or one of them."""
    if name in table.rows:
        return set(table.trainings(name))
    return {name} & {each for row in table.rows for each in table.trainings(row)}


def _resolve(table: Table, row: TableRow, request: Request) -> TableRow | None:
    if request.scale == "paper":
        pretrain = dataclasses.replace(row.pretrain, data=request.data or "", subset=table.subset)
        known = dict(request.other_data)
        row = TableRow(pretrain, tuple(e.on_data(known) for e in row.evaluations))
    else:
        small = _shrunk(table, row, request.scale)
        if small is None:
            return None
        row = small
    changes: dict[str, object] = {}
    if request.precision is not None:
        changes["precision"] = request.precision
    if request.max_steps is not None:
        changes["max_steps"] = request.max_steps
        row = dataclasses.replace(
            row,
            evaluations=tuple(e.limited(request.max_steps) for e in row.evaluations),
        )
    row = dataclasses.replace(row, pretrain=dataclasses.replace(row.pretrain, **changes))  # type: ignore[arg-type]
    return apply_overrides(row, request.overrides)


def _shrunk(table: Table, row: TableRow, scale: str) -> TableRow | None:
    return (table.proxy if scale == "proxy" else table.smoke)(row)


def kept(table: Table, row: str, scale: str) -> set[str]:
    """Name the trainings of a row that a scale runs."""
    return {
        name
        for name, training in table.trainings(row).items()
        if scale == "paper" or _shrunk(table, training, scale) is not None
    }


def plan_runs(rows: Mapping[str, TableRow], seeds: Iterable[int]) -> list[Run]:
    """Return the runs of all rows, seed by seed; rows with the same pretraining share it.

    Args:
        rows: what `resolve_rows` returns.
        seeds: in the order of the runs.
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


@dataclass(frozen=True)
class Price:
    """What a pretraining takes: images seen, optimizer steps, floating-point operations."""

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
        return forward_flops(build_encoder(recipe, 0), side)


@functools.lru_cache(maxsize=256)
def _encoder_inputs(recipe: PretrainRecipe) -> tuple[tuple[int, float], ...]:
    """Ask the method itself, built around the smallest encoder: its inputs depend on none."""
    with shapes_only():
        encoder = build_encoder(ResNetRecipe("small_resnet8"), 0)
        method = recipe.method.build(encoder, 0)
    return method.encoder_inputs([view.size for view in recipe.views])
