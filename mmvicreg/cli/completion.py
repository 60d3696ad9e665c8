"""Completion of every command and option in a shell: the shell's name comes in, its script goes out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, Union

SHELLS = ("bash", "zsh")
USAGE = 2


def print_completion(shell: str, commands: Mapping[str, tuple[str, str]]) -> int:
    """Write the script of a shell to standard output; the return value is the exit status.

    ``commands`` {command: (module, name of the dataclass of its options)}.
    """
    import tyro

    if shell not in SHELLS:
        print(f"mmvicreg: --completion is {shell!r}; expected one of {', '.join(SHELLS)}", file=sys.stderr)
        return USAGE
    configs = {name: vars(import_module(module))[dataclass] for name, (module, dataclass) in commands.items()}
    either: Any = Union[tuple(Annotated[each, tyro.conf.subcommand(name)] for name, each in configs.items())]  # noqa: UP007
    try:
        tyro.cli(either, prog="mmvicreg", args=["--tyro-print-completion", shell])
    except SystemExit as printed:  # how tyro ends once it has printed
        return int(printed.code or 0)
    return 0
