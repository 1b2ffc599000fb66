"""Damaged reference files and settings end in sentences: seeded mutations of those in use."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retable.errors import UserError
from retable.evaluate import named_protocol, protocol_names
from retable.settings import parse_setting, with_field
from retable.tables.reading import parse_reference
from retable.tables.recording import reference_text

STORED = [
    path.read_text(encoding="utf-8")
    for path in sorted((Path(__file__).parents[2] / "reproductions").glob("*/*.toml"))
]

VALUES = (
    *("nan", "inf", "-inf", "-1", "0", "-0.0", "5.5", "1e400", "1e-320", "9" * 400, "9" * 5000),
    *('"text"', '""', "[]", "{}", "true", "2020-01-01", "07:32:00", "[1, 'x']", "[[1]]"),
    *("{ value = 1.0 }", "[ { a = 1 } ]", '"\\u001b[2J"', "'''a\nb'''", "0x10"),
)  # fmt: skip
SIGNS = ("\0", "\x1b", '"', "'", "[", "]", "{", "}", "=", ".", ",", "#", "\n", "\\", "é", "\u202e")
NAMES = ("values", "recipe", "kind", "key", "rows", '"a b"', "a.b", "std", "label")


def replaced(draw: random.Random, text: str, pattern: str, new: str) -> str:
    found = list(re.finditer(pattern, text))
    if not found:
        return text
    match = draw.choice(found)
    return text[: match.start()] + new + text[match.end() :]


def mutated(draw: random.Random, text: str) -> str:
    """Return a TOML file with one to four faults: values, names, lines, characters, its end."""
    for _ in range(draw.randint(1, 4)):
        lines, place = text.split("\n"), draw.randrange(len(text) + 1)
        match draw.randrange(7):
            case 0 | 1:
                value = r'(?<== )(?:"[^"\n]*"|[-\d.]+|true|false|\[[^\]\n]*\])'
                text = replaced(draw, text, value, draw.choice(VALUES))
            case 2:
                text = replaced(draw, text, r"\b[a-z_0-9]+(?= = )", draw.choice(NAMES))
            case 3:
                del lines[draw.randrange(len(lines))]
                text = "\n".join(lines)
            case 4:
                lines.insert(draw.randrange(len(lines)), draw.choice(lines))
                text = "\n".join(lines)
            case 5:
                text = text[:place] + draw.choice(SIGNS) + text[place + draw.randint(0, 2) :]
            case _:
                text = draw.choice((text[:place], text[:place] + "[" * 3000 + text[place:]))
    return text


@pytest.mark.parametrize("seed", range(4))
def test_damaged_reference_files_are_refused_in_sentences_or_survive_being_written(
    seed: int,
) -> None:
    draw, accepted = random.Random(seed), 0
    for _ in range(100):
        text = mutated(draw, draw.choice(STORED))
        with contextlib.suppress(UserError):
            reference = parse_reference(text, Path("table.toml"))
            assert parse_reference(reference_text(reference), Path("table.toml")) == reference
            accepted += 1
    assert accepted < 50


def paths(recipe: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(recipe):
        yield prefix + field.name
        if dataclasses.is_dataclass(value := getattr(recipe, field.name)):
            yield from paths(value, f"{prefix}{field.name}.")


SETTINGS = (
    *VALUES,
    *("NaN", "Infinity", "null", "1", "0.5", "1e308", "[NaN]", "[null]", "[0.1,0.2]", '["a","b"]'),
    *('{"kind":"X"}', '{"size":0}', '[{"size":1e9}]', '{"size":32,"jitter":[1]}', "../../x", "\0"),
    *("\udc80", "\x1b[2J", "[" * 3000, "[1", "é", "a=b", '[["a",-1]]', "cosine", "step", "lars"),
)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_settings_are_refused_in_sentences(seed: int) -> None:
    draw = random.Random(seed)
    recipes = [named_protocol(name, 32) for name in protocol_names()]
    for _ in range(500):
        recipe = draw.choice(recipes)
        path = draw.choice([*paths(recipe), "x", "", "__class__", "view.size", "data..labels"])
        text = draw.choice(SETTINGS)
        if draw.random() < 0.2:
            text = text[: draw.randrange(len(text) + 1)] + draw.choice(SETTINGS)
        with contextlib.suppress(UserError):
            name, value = parse_setting(f"{path}={text}")
            with_field(recipe, name.split("."), value, name)
