"""The runs that a selection of a table needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from retable.errors import UserError
from retable.reproduce.run import Run
from retable.reproduce.table import Table, TableRow
from retable.settings import field_paths, parse_setting, with_field
from retable.text import did_you_mean
from retable.train.recipe import PretrainRecipe


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
            f"{table.name} has no row {', '.join(unknown)}. Choose from {', '.join(table.rows)}"
            f"{did_you_mean(unknown[0], named)}"
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
            paths = settable_fields(row)
            longer = [each for each in paths if each.endswith(f".{path}")]
            asked = f"; did you mean {longer[0]}?" if longer else did_you_mean(path, paths)
            raise UserError(f"`--set {path}` must name a field of a row, one of {choices}{asked}")
    return row


def settable_fields(row: TableRow) -> list[str]:
    """Return the paths that ``--set`` takes, those inside a recipe's recipes included."""
    parts = {"pretrain": row.pretrain, **{each.name: each for each in row.evaluations}}
    return [f"{name}.{path}" for name, part in parts.items() for path in field_paths(part)]
