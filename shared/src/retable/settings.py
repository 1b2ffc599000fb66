"""Frozen dataclasses and plain values: serialisation, fingerprints, validation and ``--set``."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from retable.domains import Domain, shown
from retable.errors import UserError
from retable.text import did_you_mean

T = TypeVar("T")

NOT_FINITE = ("nan", "inf", "-inf")
"""Words for numbers that are not finite, which JSON does not have."""

Path = tuple[str | int, ...]
"""Names of fields, keys of mappings and indices of lists, from the outermost value inwards."""


def to_plain(value: object) -> Any:
    """Turn a dataclass or a container into JSON values.

    A dataclass becomes a dictionary with its class under ``kind``, a number that is not finite one
    of the words `NOT_FINITE`.

    >>> @dataclass(frozen=True)
    ... class Example:
    ...     sizes: tuple[int, ...] = (1, 2)
    ...     rate: float = math.nan
    >>> to_plain(Example())
    {'kind': 'Example', 'sizes': [1, 2], 'rate': 'nan'}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"only plain values can be stored, not {type(value).__name__}")


def flatten(plain: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of `to_plain` with its path; a list without dictionaries is one value.

    >>> dict(flatten({"sizes": [1, 2], "views": [{"size": 3}]}))
    {'sizes': [1, 2], 'views.0.size': 3}
    """
    if isinstance(plain, list) and any(isinstance(item, dict) for item in plain):
        plain = dict(enumerate(plain))
    if isinstance(plain, dict):
        for name, inner in plain.items():
            yield from flatten(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path, plain


def fingerprint(*parts: object) -> str:
    """Hash recipes and plain values to 16 hexadecimal digits, the same on every machine."""
    text = json.dumps([to_plain(part) for part in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Problem:
    """A field that the dataclass at the path ``owner`` does not accept.

    The message has no full stop at its end.
    """

    owner: Path
    message: str


class PlainValueError(ValueError):
    """Plain values do not fit a type; the error lists all ``problems``."""

    def __init__(self, problems: list[Problem]) -> None:
        placed = (": ".join(filter(None, (_dotted(p.owner), p.message))) for p in problems)
        super().__init__("; ".join(placed))
        self.problems = problems


def from_plain(kind: type[T], plain: Any) -> T:
    """Build a value from what `to_plain` returns, or from a parsed TOML or JSON file.

    Integers become floats and lists tuples where the type ``kind`` says so. Fields with a default
    may be missing. Of several dataclasses in a union, the plain value's ``kind`` selects one;
    without it, the one with the most fields in common.

    A `PlainValueError` lists all values that do not fit. An error that a constructor raises counts
    as one problem.
    """
    problems: list[Problem] = []
    value = _read(kind, plain, (), 0, problems)
    if problems:
        raise PlainValueError(problems)
    return typing.cast(T, value)


def parse_setting(setting: str) -> tuple[str, Any]:
    """Parse ``path=value``: the value as JSON, or as plain text where that fails."""
    path, separator, text = setting.partition("=")
    if not separator or not path:
        raise UserError(f"`--set {setting}` must have a value. Use --set {path or 'FIELD'}=VALUE.")
    try:
        return path, json.loads(text)
    except RecursionError:
        raise UserError(
            f"`--set {path}` must not be nested so deeply. Correct its value."
        ) from None
    except ValueError:
        return path, text


def with_field(recipe: T, names: list[str], value: Any, path: str) -> T:
    """Return the recipe, a dataclass, with the field at the end of ``names`` replaced.

    Of a plain ``value``, as `parse_setting` returns it, integers become floats, lists tuples, and a
    single value a tuple of one, where the field is of that type. If there is no such field, or its
    type does not allow the value, the UserError names the ``path`` that the user wrote.
    """
    head, *rest = names
    fields = [field.name for field in dataclasses.fields(recipe)]  # type: ignore[arg-type]
    if head not in fields:
        raise UserError(
            f"`--set {path}` must name a field of {type(recipe).__name__}, got {head!r}. "
            f"Choose from {', '.join(fields)}{did_you_mean(head, fields)}"
        )
    old = getattr(recipe, head)
    if rest:
        if not dataclasses.is_dataclass(old):
            raise UserError(f"`--set {path}` must end at {head!r}, which has no fields.")
        new: Any = with_field(old, rest, value, path)
    else:
        hint: Any = _hints(type(recipe))[head]
        problems: list[Problem] = []
        new = _read(hint, value, (path,), 0, problems)
        if problems and not isinstance(value, list):
            new = _read(hint, [value], (path,), 0, [])
        if new is _UNREAD:
            example = json.dumps(to_plain(old), ensure_ascii=False)
            remedy = f"Use a value such as {example}" if len(example) < 200 else "Change it"
            raise UserError(f"{problems[0].message}. {remedy}.")
    changed = dataclasses.replace(recipe, **{head: new})  # type: ignore[type-var]
    validate_fields(changed)
    return changed


def field_paths(recipe: Any) -> Iterator[str]:
    """Yield the paths of the fields that `with_field` can replace, outer ones first.

    A field that holds a dataclass is followed by those inside it.
    """
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        inner = field_paths(value) if dataclasses.is_dataclass(value) else ()
        yield from (field.name, *(f"{field.name}.{path}" for path in inner))


def validate_fields(recipe: Any) -> None:
    """Check the domain of each field of a dataclass, as its type declares it.

    A field whose type is a `typing.Literal` must have one of its values, one with a domain of
    `retable.domains` a value of that; also inside tuples and where None is allowed.
    """
    annotated = _annotated_hints(type(recipe))
    for field in dataclasses.fields(recipe):
        for expected, value in _outside(annotated[field.name], getattr(recipe, field.name)):
            default, example = field.default, ""
            if default not in (None, dataclasses.MISSING, ()):
                example = f" Use for example {json.dumps(to_plain(default), ensure_ascii=False)}."
            raise UserError(f"`{field.name}` must be {expected}, got {shown(value)}.{example}")


def _outside(hint: Any, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is expected of a value, or of an item of it, that lies outside its domain."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        domain = next((each for each in arguments[1:] if isinstance(each, Domain)), None)
        if domain is not None and value not in domain:
            yield domain.expected(value), value
    elif origin is typing.Literal and not _fits(hint, value):
        yield _expected(hint), value
    elif origin in (typing.Union, types.UnionType) and value is not None:
        options = [option for option in arguments if option is not types.NoneType]
        if len(options) == 1:
            yield from _outside(options[0], value)
    elif origin is tuple and isinstance(value, tuple):
        several = arguments[-1:] == (...,)
        if not several and len(value) != len(arguments):
            yield f"{len(arguments)} values", value
            return
        hints = arguments[:1] * len(value) if several else arguments
        for item_hint, item in zip(hints, value, strict=True):
            for expected, _ in _outside(item_hint, item):
                yield f"{expected.removesuffix(' in each item')} in each item", value
                return


_UNREAD: Any = object()
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)
_annotated_hints: Callable[[Any], dict[str, Any]] = functools.cache(
    functools.partial(typing.get_type_hints, include_extras=True)
)
_EXPECTED = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    types.NoneType: "null",
}


def _dotted(path: Iterable[str | int]) -> str:
    text = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in path)
    return text.removeprefix(".")


def _read(hint: Any, plain: Any, path: Path, start: int, problems: list[Problem]) -> Any:
    """Return the value, or `_UNREAD` after adding to ``problems``.

    ``path`` is that of the value; its first ``start`` names are those of the dataclass around it.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return plain
    if origin in (typing.Union, types.UnionType):
        return _read_union(hint, plain, path, start, problems)
    if dataclasses.is_dataclass(hint) and isinstance(plain, Mapping):
        return _read_fields(hint, plain, path, problems)
    if origin is tuple and isinstance(plain, list):
        hints = arguments[:1] * len(plain) if arguments[-1:] == (...,) else arguments
        if len(hints) == len(plain):
            pairs = enumerate(zip(hints, plain, strict=True))
            items = tuple(_read(h, item, (*path, i), start, problems) for i, (h, item) in pairs)
            return _UNREAD if any(item is _UNREAD for item in items) else items
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(plain, Mapping):
        found = {
            arguments[0](key): _read(arguments[1], item, (*path, key), start, problems)
            for key, item in plain.items()
        }
        return _UNREAD if any(item is _UNREAD for item in found.values()) else found
    if _fits(hint, plain):
        return plain if origin is not None or type(plain) is hint or plain is None else hint(plain)
    return _refuse(hint, plain, path, start, problems)


def _refuse(hint: Any, plain: Any, path: Path, start: int, problems: list[Problem]) -> Any:
    name = f"`{_dotted(path[start:])}`" if path[start:] else "the value"
    problems.append(Problem(path[:start], f"{name} must be {_expected(hint)}, got {shown(plain)}"))
    return _UNREAD


def _read_union(hint: Any, plain: Any, path: Path, start: int, problems: list[Problem]) -> Any:
    options = [option for option in typing.get_args(hint) if option is not types.NoneType]
    if plain is None and len(options) < len(typing.get_args(hint)):
        return None
    classes = [option for option in options if dataclasses.is_dataclass(option)]
    if classes and isinstance(plain, Mapping):

        def likeness(kind: Any) -> tuple[bool, int]:
            names = {field.name for field in dataclasses.fields(kind)}
            return kind.__name__ == plain.get("kind"), len(names & plain.keys())

        return _read(max(classes, key=likeness), plain, path, start, problems)
    for option in options:
        attempt: list[Problem] = []
        value = _read(option, plain, path, start, attempt)
        if not attempt:
            return value
    return _refuse(hint, plain, path, start, problems)


def _read_fields(kind: Any, plain: Mapping[str, Any], path: Path, problems: list[Problem]) -> Any:
    before = len(problems)
    hints = _hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in plain:
        if name not in fields and name != "kind":
            known = ", ".join(fields)
            problems.append(Problem(path, f"`{name}` must be one of the fields {known}"))
    values = {}
    for name in fields:
        if name in plain:
            values[name] = _read(hints[name], plain[name], (*path, name), len(path), problems)
            if values[name] is not _UNREAD:
                problems += _strays(kind, name, values[name], path)
        elif name in _required(kind):
            problems.append(_missing(name, hints[name], path))
    if len(problems) > before:
        return _UNREAD
    try:
        return kind(**values)
    except ValueError as error:
        problems.append(Problem(path, str(error).removesuffix(".")))
        return _UNREAD


def _strays(kind: Any, name: str, value: Any, path: Path) -> Iterator[Problem]:
    """Yield the problem of a field whose value has the right type but lies outside its domain."""
    for expected, found in _outside(_annotated_hints(kind)[name], value):
        yield Problem(path, f"`{name}` must be {expected}, got {shown(found)}")


def _missing(name: str, hint: Any, path: Path) -> Problem:
    """Describe a missing field, and how to add it if it is a section of a file."""
    several = typing.get_origin(hint) is tuple
    section = typing.get_args(hint)[0] if several else hint
    if not dataclasses.is_dataclass(section):
        return Problem(path, f"`{name}` must be {_expected(hint)}, got nothing")
    place = ".".join([*(part for part in path if isinstance(part, str)), name])
    header = f"sections [[{place}]], each" if several else f"a section [{place}]"
    fields = ", ".join(_required(section))
    return Problem(path, f"`{name}` is missing. Add {header} with {fields}")


def _required(kind: Any) -> list[str]:
    """Return the fields of a dataclass that have no default."""
    fields = dataclasses.fields(kind)
    return [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]


def _fits(hint: Any, plain: Any) -> bool:
    """Return whether a plain value is one of a type without parts."""
    if typing.get_origin(hint) is typing.Literal:
        return any(plain == one and type(plain) is type(one) for one in typing.get_args(hint))
    if hint is float:
        fits = type(plain) is float or (type(plain) is int and abs(plain) <= sys.float_info.max)
        return fits or plain in NOT_FINITE
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return plain in list(hint)
    return plain is None if hint is types.NoneType else type(plain) is hint


def _expected(hint: Any) -> str:
    """Describe a type for users."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_expected(option) for option in arguments)
    if origin is tuple:
        count = "" if arguments[-1:] == (...,) else f" of {len(arguments)}"
        return f"a list{count}, each item {_expected(arguments[0])}"
    if dataclasses.is_dataclass(hint) and (required := ", ".join(_required(hint))):
        return f"a table with {required}"
    if origin is not None or dataclasses.is_dataclass(hint):
        return "a table"
    return _EXPECTED.get(hint, f"a {getattr(hint, '__name__', hint)}")
