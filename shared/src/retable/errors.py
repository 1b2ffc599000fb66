"""The error that is meant for the user."""


class UserError(Exception):
    """An error that the user can fix: one sentence with the name, the expectation and the remedy.

    Commands print it and exit with status 2, without a traceback.
    """
