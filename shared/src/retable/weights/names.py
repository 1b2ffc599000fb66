"""Text of files that is safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return a text with its control characters escaped, so that no file commands a terminal.

    >>> printable("\x1b[2Jfc.weight")
    '\\x1b[2Jfc.weight'
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )
