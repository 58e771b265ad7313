"""The one exception that speaks to the user."""


class UserError(ValueError):
    """Wrong usage or input: one line with what was seen, where, and what to change.

    The command line prints the message without a traceback and exits with code 2.
    Anything else that escapes is our bug: traceback, exit code 1.
    """
