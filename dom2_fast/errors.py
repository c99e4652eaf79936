"""Errors that a user can act on: the command line prints them as one line, without a traceback."""


class Dom2Error(ValueError):
    """What was given can't be used; the message says what is accepted and what to do."""
