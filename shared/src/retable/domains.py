"""Domains of numbers and names: what a field of a recipe or an option accepts.

A field declares its domain by its type, ``lr: Positive = 0.03``, and `retable.settings` checks it.
To a type checker, `Positive` is a float. No domain changes a value.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Never

from retable.errors import UserError
from retable.text import one_line

LARGEST = 1e38
"""Bound of all numbers: float32, in which recipes are computed, ends at 3.4e38."""


@dataclass(frozen=True)
class Interval:
    """Numbers from ``low`` to ``high``, both included unless open; never NaN.

    Attributes:
        whole: Whether they are integers.
    """

    low: float = -LARGEST
    high: float = LARGEST
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def expected(self, value: object) -> str:
        """Describe the interval to somebody who gave this value."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        large = number and value > self.high  # type: ignore[operator]
        if self.whole:
            kind = "" if number and value == value // 1 else "an integer of "  # type: ignore[operator]
            return kind + (f"at most {self.high:.0f}" if large else f"at least {self.low:.0f}")
        if self.high == LARGEST:
            words = {0.0: "positive" if self.open_low else "0 or more"}.get(self.low, "finite")
            return f"{words}, at most {LARGEST:g}" if large else words
        brackets = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"in {brackets[0]}{self.low:g}, {self.high:g}{brackets[1]}"


@dataclass(frozen=True)
class Word:
    """Names that can be part of a file's name and of a metric's."""

    most: int = 64

    def __contains__(self, value: object) -> bool:
        pattern = rf"[A-Za-z0-9_][A-Za-z0-9_+-]{{0,{self.most - 1}}}"
        return isinstance(value, str) and re.fullmatch(pattern, value) is not None

    def expected(self, value: object) -> str:
        """Describe the names."""
        return f"a name of up to {self.most} letters, digits, '_', '+' and '-'"


@dataclass(frozen=True)
class Text:
    """Text that is not empty."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and value.strip() != ""

    def expected(self, value: object) -> str:
        """Describe the texts."""
        return "a text that is not empty"


Domain = Interval | Word | Text

Finite = Annotated[float, Interval()]
Positive = Annotated[float, Interval(0.0, open_low=True)]
NonNegative = Annotated[float, Interval(0.0)]
Probability = Annotated[float, Interval(0.0, 1.0)]
Share = Annotated[float, Interval(0.0, 1.0, open_low=True)]
InnerShare = Annotated[float, Interval(0.0, 1.0, open_low=True, open_high=True)]
Fraction = Annotated[float, Interval(0.0, 1.0, open_high=True)]
Width = Annotated[float, Interval(0.0, 64.0, open_low=True)]

Count = Annotated[int, Interval(1, 10**9, whole=True)]
CountOrZero = Annotated[int, Interval(0, 10**9, whole=True)]
Epochs = Annotated[int, Interval(1, 10**6, whole=True)]
BatchSize = Annotated[int, Interval(1, 2**20, whole=True)]
Dim = Annotated[int, Interval(1, 2**20, whole=True)]
Queue = Annotated[int, Interval(1, 10**8, whole=True)]
Pixels = Annotated[int, Interval(1, 2**14, whole=True)]
Small = Annotated[int, Interval(1, 1024, whole=True)]
SmallOrZero = Annotated[int, Interval(0, 1024, whole=True)]
Name = Annotated[str, Word()]
Words = Annotated[str, Text()]

Decimals = Annotated[int, Interval(0, 10, whole=True)]

SEED = Interval(0, 2**32 - 1, whole=True)
Seed = Annotated[int, SEED]
MOST_SEEDS = 10_000
"""Seeds of one command; each has a run of its own."""


def shown(value: object, most: int = 60) -> str:
    """Return a value for a message, shortened if it is long."""
    if isinstance(value, int) and abs(value) >= 10**most:
        return f"an integer of more than {most} digits"
    try:
        text = repr(value)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def integer(annotated: object) -> Callable[[str], int]:
    """Return a type for `argparse` that reads an integer of a domain such as `Count`."""
    interval: Interval = getattr(annotated, "__metadata__", [annotated])[0]

    def read(text: str) -> int:
        plain = re.fullmatch(r"-?[0-9]{1,20}", text)
        if plain is None or int(text) not in interval:
            expected = interval.expected(int(text) if plain else text)
            expected = "an integer of " + expected.removeprefix("an integer of ")
            raise argparse.ArgumentTypeError(f"must be {expected}, got {one_line(text, 40)}")
        return int(text)

    return read


class Parser(argparse.ArgumentParser):
    """Raises wrong usage as a `UserError`."""

    def error(self, message: str) -> Never:
        """Raise the error."""
        raise UserError(f"{message[:1].upper()}{message[1:]} (see --help).")
