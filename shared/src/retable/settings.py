"""``--set FIELD=VALUE``: change one field of a recipe, checked against the field's type."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from typing import Any, TypeVar

from retable.errors import UserError

Recipe = TypeVar("Recipe")


def to_plain(recipe: object) -> Any:
    """Turn a recipe into plain JSON values, each dataclass with its class under ``kind``.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Example:
    ...     sizes: tuple[int, ...] = (1, 2)
    >>> to_plain(Example())
    {'kind': 'Example', 'sizes': [1, 2]}
    """
    if dataclasses.is_dataclass(recipe) and not isinstance(recipe, type):
        fields = {f.name: to_plain(getattr(recipe, f.name)) for f in dataclasses.fields(recipe)}
        return {"kind": type(recipe).__name__, **fields}
    if isinstance(recipe, dict):
        return {str(name): to_plain(value) for name, value in recipe.items()}
    if isinstance(recipe, list | tuple):
        return [to_plain(value) for value in recipe]
    if recipe is None or isinstance(recipe, bool | int | float | str):
        return recipe
    raise TypeError(f"a recipe holds plain values, not {type(recipe).__name__}")


def fingerprint(*parts: object) -> str:
    """Hash recipes and plain values to 16 hexadecimal digits, the same on every machine.

    >>> len(fingerprint({"a": 1}, 0))
    16
    """
    text = json.dumps([to_plain(part) for part in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_setting(setting: str) -> tuple[str, Any]:
    """Read ``path=value``: the value as JSON, or as plain text where that fails.

    Raises:
        UserError: there is no value.

    >>> parse_setting("optimizer.lr=0.3"), parse_setting("precision=bf16")
    (('optimizer.lr', 0.3), ('precision', 'bf16'))
    """
    path, separator, text = setting.partition("=")
    if not separator or not path:
        raise UserError(f"--set {setting} has no value: expected --set {path or 'FIELD'}=VALUE.")
    try:
        return path, json.loads(text)
    except ValueError:
        return path, text


def with_field(recipe: Recipe, names: list[str], value: Any, path: str) -> Recipe:
    """Return the recipe with one field replaced.

    Args:
        recipe: a dataclass; it is left as it is.
        names: the field's name, after those of the fields that hold it.
        value: plain, as `parse_setting` reads it; whole numbers become floats, lists tuples, and a
            single value a tuple of one, where the field is of that type.
        path: what the user wrote, for the message.

    Raises:
        UserError: no such field, or a value that its type does not allow.
    """
    head, *rest = names
    fields = [field.name for field in dataclasses.fields(recipe)]  # type: ignore[arg-type]
    if head not in fields:
        raise UserError(
            f"--set {path}: {type(recipe).__name__} has no {head!r}: expected one of "
            f"{', '.join(fields)}."
        )
    old = getattr(recipe, head)
    if rest:
        if not dataclasses.is_dataclass(old):
            raise UserError(f"--set {path}: {head!r} has no fields: expected --set {head}=VALUE.")
        new: Any = with_field(old, rest, value, path)
    else:
        new = _converted(typing.get_type_hints(type(recipe))[head], value)
        if new is _UNFIT:
            expected = _described(recipe, head)
            raise UserError(f"--set {path}={value!r}: expected {expected}, as in {old!r}.")
    return dataclasses.replace(recipe, **{head: new})  # type: ignore[type-var]


_UNFIT = object()


def _converted(hint: Any, value: Any) -> Any:
    """Return the value as the type wants it, `_UNFIT` if it cannot be."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        fitting = (_converted(one, value) for one in arguments)
        return next((new for new in fitting if new is not _UNFIT), _UNFIT)
    if origin is typing.Literal:
        return value if value in arguments else _UNFIT
    if origin is tuple:
        return _tuple(arguments, value)
    if hint is float and type(value) is int:
        return float(value)
    if hint is types.NoneType:
        return None if value is None else _UNFIT
    return value if type(value) is hint else _UNFIT


def _tuple(arguments: tuple[Any, ...], value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    if arguments[-1:] == (...,):
        arguments = arguments[:1] * len(values)
    if len(values) != len(arguments):
        return _UNFIT
    items = tuple(_converted(hint, item) for hint, item in zip(arguments, values, strict=True))
    return _UNFIT if any(item is _UNFIT for item in items) else items


def _described(recipe: object, name: str) -> str:
    """Name a field's type as its class writes it."""
    hint = typing.get_type_hints(type(recipe))[name]
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(repr, typing.get_args(hint)))}"
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
