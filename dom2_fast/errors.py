"""Errors that a user can act on: the command line prints them as one line, without a traceback."""

from __future__ import annotations

import operator
import tokenize
import zipfile
import zlib
from typing import Any

# What NumPy and the standard library's zipfile raise for files that are damaged or are none of
# theirs. (A header of NumPy's is a Python literal, so that a damaged one may fail as source does.)
BROKEN_ARRAYS = (
    ValueError,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class Dom2Error(ValueError):
    """What was given can't be used; the message says what is accepted and what to do."""


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int, where it is a whole number of at least `least`.

    NumPy's integers are accepted; `True` and `2.0` aren't: where they turn up, something else
    was meant.

    Raises:
        Dom2Error: it is anything else; the message calls it `name`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise Dom2Error(f"{name} must be a whole number of at least {least}, not {value!r}")
    return number
