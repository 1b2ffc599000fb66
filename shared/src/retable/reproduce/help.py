"""The end of a table's ``--help``: scales, rows, and the fields of ``--set``."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

from retable.errors import UserError
from retable.reproduce.table import Table
from retable.tables import load_reference

WIDTH = 78
INDENT: Any = {"initial_indent": "  ", "subsequent_indent": "    "}

Fields = dict[str, None]
"""Names of fields in order of appearance."""

SCALES = """\
scales:
  proxy  minutes on two cores: a small encoder on built-in images, compared with
         numbers recorded here, and with the paper's claims
  paper  the paper's recipe on the images of --data, compared with its numbers
  smoke  seconds: every step once; nothing is compared"""


def epilog(table: Table) -> str:
    """Return the scales, the rows with the paper's labels, and the fields that can be set."""
    return "\n\n".join((SCALES, _rows(table), _fields(table)))


def _rows(table: Table) -> str:
    try:
        labels = {row.key: row.label for row in load_reference(table.reference).rows}
    except UserError:  # said when the table runs; the help of its options needs no reference
        labels = {}
    longest = max(map(len, table.rows))
    names = (f"  {name:{longest}}  {labels.get(name, '')}".rstrip() for name in table.rows)
    return "\n".join(("rows:", *names))


def _fields(table: Table) -> str:
    """Return the fields of the table's recipes: of its parts, then of the recipes inside them."""
    parts: dict[str, Fields] = {}
    kinds: dict[type, tuple[Fields, Fields]] = {}
    for row in table.rows:
        for training in table.trainings(row).values():
            _collect(training.pretrain, parts.setdefault("pretrain", {}), kinds)
            for each in training.evaluations:
                _collect(each, parts.setdefault(each.name, {}), kinds)
    shared: dict[tuple[str, ...], Fields] = {}
    for part, fields in parts.items():
        shared.setdefault(tuple(fields), {})[part] = None
    paragraphs = [(", ".join(names), fields) for fields, names in shared.items()]
    paragraphs += [
        (f"FIELDs of {', '.join(names)} ({kind.__name__})", tuple(fields))
        for kind, (names, fields) in kinds.items()
    ]
    filled = (f"{names}: {', '.join(sorted(fields))}" for names, fields in paragraphs)
    return "\n".join((
        "fields of --set, as PART.FIELD=VALUE or PART.FIELD.FIELD=VALUE; not every row",
        "has all, and --dry-run --full prints their values:",
        *(textwrap.fill(text, WIDTH, **INDENT, break_on_hyphens=False) for text in filled),
    ))  # fmt: skip


def _collect(recipe: Any, fields: Fields, kinds: dict[type, tuple[Fields, Fields]]) -> None:
    """Add a recipe's fields, and by their class the recipes in them, with where they stand."""
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            names, inner = kinds.setdefault(type(value), ({}, {}))
            names[field.name] = None
            _collect(value, inner, kinds)
            fields[f"{field.name}.FIELD"] = None
        else:
            fields[field.name] = None
