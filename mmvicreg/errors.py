"""What this package refuses in words is printed as those words; everything else keeps its traceback."""

from __future__ import annotations

import dis
import os
import sys
from pathlib import Path
from types import TracebackType

PACKAGE = str(Path(__file__).parent)
VARIABLE = "MMVICREG_TRACEBACK"


def refused(error: BaseException, trace: TracebackType | None) -> bool:
    """Whether ``error`` comes from a raise statement of this package: a failing call inside it is a bug to be seen."""
    if trace is None or not isinstance(error, Exception) or isinstance(error, AssertionError):
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return code.co_filename.startswith(PACKAGE) and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def words(error: BaseException) -> str:
    """The message of an error; that of a KeyError without the quotes Python puts around it."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def show_messages_alone() -> None:
    """Print errors that nobody catches without a traceback where they are this package's refusals.

    The exit status stays 1. The environment variable MMVICREG_TRACEBACK=1, or an ``excepthook`` of the user's, is
    left its way.
    """
    if sys.excepthook is sys.__excepthook__ and not os.environ.get(VARIABLE):
        sys.excepthook = _show


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not refused(error, trace):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"{kind.__name__}: {words(error)}\n({VARIABLE}=1 shows where this was raised)", file=sys.stderr)
