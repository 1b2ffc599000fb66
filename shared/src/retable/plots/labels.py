"""Labels of runs in a picture: their method, and the fields in which their recipes differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

Fields = dict[str, Any]

_METHOD = ".method.kind"
_VAGUE = {"kind", "name"}
"""Fields that are unclear without the name of their parent."""


def label_runs(recipes: Sequence[Any], names: Sequence[str]) -> list[str]:
    """Return a label for each run, such as ``MoCo, momentum=0.5``.

    A label has the recipe's method and as few further fields as distinguish the runs: first fields
    of the method, then others in alphabetical order, the seed last. Runs with equal recipes also
    have their names.

    Args:
        recipes: content of each run's ``recipe.json``, None for a run without one.
        names: name of each run, for instance its folder; the label of a run without a recipe.

    >>> recipe = {"pretrain": {"method": {"kind": "MoCoRecipe", "momentum": 0.99}}}
    >>> other = {"pretrain": {"method": {"kind": "MoCoRecipe", "momentum": 0.5}}}
    >>> label_runs([recipe, other, None], ["a", "b", "logs"])
    ['MoCo, momentum=0.99', 'MoCo, momentum=0.5', 'logs']
    >>> label_runs([recipe, recipe], ["a", "b"])
    ['MoCo (a)', 'MoCo (b)']
    """
    fields = [dict(flatten(recipe)) if recipe is not None else {} for recipe in recipes]
    labels = [_method(own) or name for own, name in zip(fields, names, strict=True)]
    for path in sorted(set().union(*fields), key=_rank):
        if f".{path}".endswith(_METHOD):
            continue
        texts = [_assignment(own, path, fields) for own in fields]
        values = {text for text in texts if text}
        distinguishes = len(set(zip(labels, texts, strict=True))) > len(set(labels))
        if len(values) > 1 and distinguishes:
            labels = [", ".join(filter(None, both)) for both in zip(labels, texts, strict=True)]
    return [
        f"{label} ({name})" if labels.count(label) > 1 and name != label else label
        for label, name in zip(labels, names, strict=True)
    ]


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field with its dotted path; a list of plain values is one field."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flatten(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for number, inner in enumerate(value):
            yield from flatten(inner, f"{path}.{number}")
    else:
        yield path, value


def _method(fields: Fields) -> str:
    """Return the method's name: its recipe's class without the word recipe."""
    for path, value in fields.items():
        if f".{path}".endswith(_METHOD):
            return str(value).removesuffix("Recipe")
    return ""


def _rank(path: str) -> tuple[int, str]:
    if ".method." in f".{path}":
        return 0, path
    return (2, path) if path.rpartition(".")[2] == "seed" else (1, path)


def _assignment(own: Fields, path: str, fields: Sequence[Fields]) -> str:
    """Return ``name=value``, with the shortest end of the path that no other such field has."""
    if path not in own:
        return ""
    others = {other for one in fields for other in one if other != path}
    parts = path.split(".")
    for length in range(2 if parts[-1] in _VAGUE else 1, len(parts) + 1):
        name = ".".join(parts[-length:])
        same = [other for other in others if f".{other}".endswith(f".{name}")]
        if not any(_differs(other, fields) for other in same):
            break
    value = own[path]
    number = isinstance(value, float) and math.isfinite(value)
    return f"{name}={f'{value:g}' if number else json.dumps(value, ensure_ascii=False)}".replace(
        '"', ""
    )


def _differs(path: str, fields: Sequence[Fields]) -> bool:
    """Whether runs that have the field have different values in it."""
    return len({json.dumps(own[path]) for own in fields if path in own}) > 1
