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
