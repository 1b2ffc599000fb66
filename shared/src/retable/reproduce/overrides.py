"""``--set FIELD=VALUE``: change one field of every row's recipe from the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from retable.errors import UserError
from retable.reproduce.table import Row


def apply_overrides(row: Row, overrides: Iterable[str]) -> Row:
    """Return the row with each ``path=value`` applied.

    A path names fields from the row down, for instance ``pretrain.epochs``,
    ``pretrain.method.temperature`` or ``linear.lr`` (an evaluation by its name); values are JSON,
    or plain text where that fails.

    Raises:
        UserError: no such field, or a value of another type.
    """
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise UserError(f"--set {override} has no value: write --set {path}=VALUE.")
        row = _set_in_row(row, path.split("."), _parse(text), path)
    return row


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _set_in_row(row: Row, names: list[str], value: Any, path: str) -> Row:
    head, rest = names[0], names[1:]
    evaluations = {evaluation.name: evaluation for evaluation in row.evaluations}
    if head == "pretrain" and rest:
        return dataclasses.replace(row, pretrain=_set(row.pretrain, rest, value, path))
    if head in evaluations and rest:
        evaluations[head] = _set(evaluations[head], rest, value, path)
        return dataclasses.replace(row, evaluations=tuple(evaluations.values()))
    choices = ", ".join(f"{name}.FIELD" for name in ("pretrain", *evaluations))
    raise UserError(f"--set {path} names no field of a row: write one of {choices}.")


def _set(recipe: Any, names: list[str], value: Any, path: str) -> Any:
    fields = {field.name for field in dataclasses.fields(recipe)}
    if names[0] not in fields:
        raise UserError(
            f"--set {path}: {type(recipe).__name__} has no field {names[0]!r}: "
            f"choose from {', '.join(sorted(fields))}."
        )
    old = getattr(recipe, names[0])
    if len(names) > 1:
        if not dataclasses.is_dataclass(old):
            raise UserError(f"--set {path}: {names[0]!r} is a plain value and has no fields.")
        return dataclasses.replace(recipe, **{names[0]: _set(old, names[1:], value, path)})
    return dataclasses.replace(recipe, **{names[0]: _converted(old, value, path)})


def _converted(old: Any, value: Any, path: str) -> Any:
    """Give the value the type of the field's present value."""
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if old is not None and value is not None and type(value) is not type(old):
        raise UserError(f"--set {path}={value!r}: expected {type(old).__name__}, as in {old!r}.")
    return value
