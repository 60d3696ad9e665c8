"""What a command gives: an object for ``--json``, and text or tables for a person."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType


@dataclass(frozen=True)
class Output:
    """The result of a command."""

    data: Mapping[str, Any]
    """what ``--json`` prints, as JSON values"""
    shown: tuple[RenderableType, ...]
    """lines and tables that are printed without ``--json``"""
    status: int = 0
    """exit status: 0, or 1 where something was left out or is wrong with the data"""

    def show(self, *, as_json: bool) -> None:
        """Print to standard output; without colours where that is not a terminal."""
        if as_json:
            print(json.dumps(self.data, ensure_ascii=False, default=str))
            return
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)
        console.print(Group(*self.shown), markup=False, highlight=False, soft_wrap=True)
