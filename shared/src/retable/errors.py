"""The one error that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: one sentence with the thing, what was expected, what to do.

    Command lines print the sentence and end with status 2, without a traceback.
    """
