"""Errors that a user can cause. Their message alone is printed; every other error keeps its traceback."""

from __future__ import annotations

import os
import sys
import unicodedata
from types import TracebackType

VARIABLE = "MMVICREG_TRACEBACK"
"""Environment variable; 1 prints the traceback of a :class:`UserError` too."""


class UserError(Exception):
    """Base of the errors that a user can cause: the message says what was found, what was expected and what to do."""


class InvalidValueError(UserError, ValueError):
    """A value, file content or combination of settings that cannot be used."""


class UnknownNameError(UserError, KeyError):
    """A name that is not among those there are."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would print the quoted repr of the message


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that is not there."""


class WrongOptionError(UserError):
    """Options of a command that are wrong by themselves, whatever the data is; the exit status is that of usage."""


def first_line(error: BaseException) -> str:
    """The first line of an error of another library; its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def printable(text: str) -> str:
    """``text`` for a terminal: control characters (escape sequences among them) and lone surrogates as escapes.

    Names from other people's files are part of messages; line breaks and tabs stay.
    """
    return "".join(
        c if c in "\n\t" or not unicodedata.category(c).startswith("C") else repr(c)[1:-1] for c in text
    )


def show_messages_alone() -> None:
    """Print an uncaught :class:`UserError` as its message, without a traceback; the exit status stays 1.

    An ``excepthook`` that somebody else installed, or the environment variable MMVICREG_TRACEBACK=1, is left alone.
    """
    if sys.excepthook is sys.__excepthook__ and not os.environ.get(VARIABLE):
        sys.excepthook = _show


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, UserError):
        sys.__excepthook__(kind, error, trace)
        return
    print(
        f"{kind.__name__}: {printable(str(error))}\n({VARIABLE}=1 shows where this was raised)",
        file=sys.stderr,
    )
