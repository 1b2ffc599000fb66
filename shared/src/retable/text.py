"""Text of foreign files and names, made safe for terminals, sentences and UTF-8 files."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def printable(text: str, kept: str = "") -> str:
    r"""Replace what a terminal or UTF-8 cannot show by backslash escapes.

    Foreign names may hold escape sequences, line breaks, marks that hide text, and bytes that are
    not UTF-8. Characters in ``kept`` stay as they are.

    >>> print(printable("caf\udce9\x1b[2J.jpg"))
    caf\xe9\x1b[2J.jpg
    """
    if text.isprintable():
        return text
    return "".join(each if each in kept else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the end of a sentence that lists choices: a full stop, or a question if one is near.

    >>> did_you_mean("epoch", ["lr", "epochs"])
    '; did you mean epochs?'
    >>> did_you_mean("speed", ["lr", "epochs"])
    '.'
    """
    found = get_close_matches(name, tuple(names), 1, 0.65)
    return f"; did you mean {found[0]}?" if found else "."


def one_line(text: str, most: int = 300) -> str:
    """Return a foreign message as one printable line of at most ``most`` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."
