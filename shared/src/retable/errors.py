"""The errors that are meant for the user."""


class UserError(ValueError):
    """An error that the user can fix: one sentence with the name, the expectation and the remedy.

    Commands print it and exit with status 2, without a traceback. As a ValueError it can be caught
    without an import of Retable. Code that catches the ValueError of something else, and could
    catch a UserError with it, raises that again first.
    """


class MachineError(Exception):
    """A failure of the machine, such as a killed process: one sentence with the remedy.

    Commands print it as they print an `OSError` and exit with status 3, without a traceback.
    """


def printable(text: str) -> str:
    r"""Replace what a terminal or UTF-8 cannot show by backslash escapes.

    Names of files may hold bytes that are not UTF-8, line breaks and escape sequences.

    >>> print(printable("caf\udce9\x1b[2J.jpg"))
    caf\xe9\x1b[2J.jpg
    """
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]
