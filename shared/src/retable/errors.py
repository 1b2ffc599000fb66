"""The errors that are meant for the user."""


class UserError(Exception):
    """An error that the user can fix: one sentence with the name, the expectation and the remedy.

    Commands print it and exit with status 2, without a traceback.
    """


class MachineError(Exception):
    """A failure of the machine, such as a killed process: one sentence with the remedy.

    Commands print it as they print an `OSError` and exit with status 3, without a traceback.
    """
