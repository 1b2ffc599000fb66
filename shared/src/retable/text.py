"""Text of foreign files and names, made safe for terminals and sentences."""

from __future__ import annotations

import unicodedata

_KEPT = "\n\t"
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Categories of control, direction, surrogate, private and line-separating characters."""


def printable(text: str) -> str:
    r"""Replace characters that would steer a terminal or hide text by their escapes.

    >>> printable("a\x1b[2Jb") == "a\\x1b[2Jb"
    True
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _UNSAFE:
        return character
    return character.encode("unicode_escape").decode()


def one_line(text: str, most: int = 300) -> str:
    """Return a foreign message as one printable line of at most ``most`` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."
