"""``--set FIELD=VALUE``: change one field of every row's recipe from the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from retable.errors import UserError
from retable.reproduce.table import TableRow
from retable.settings import parse_setting, with_field


def apply_overrides(row: TableRow, overrides: Iterable[str]) -> TableRow:
    """Return the row with each ``path=value`` applied.

    A path names fields from the row down, for instance ``pretrain.epochs``,
    ``pretrain.method.temperature`` or ``linear.lr`` (an evaluation by its name); values are JSON,
    or plain text where that fails.

    Raises:
        UserError: no such field, or a value of another type.
    """
    for override in overrides:
        path, value = parse_setting(override)
        row = _set_in_row(row, path.split("."), value, path)
    return row


def _set_in_row(row: TableRow, names: list[str], value: Any, path: str) -> TableRow:
    head, rest = names[0], names[1:]
    evaluations = {evaluation.name: evaluation for evaluation in row.evaluations}
    if head == "pretrain" and rest:
        return dataclasses.replace(row, pretrain=with_field(row.pretrain, rest, value, path))
    if head in evaluations and rest:
        evaluations[head] = with_field(evaluations[head], rest, value, path)
        return dataclasses.replace(row, evaluations=tuple(evaluations.values()))
    choices = ", ".join(f"{name}.FIELD" for name in ("pretrain", *evaluations))
    raise UserError(f"--set {path} names no field of a row: expected one of {choices}.")
