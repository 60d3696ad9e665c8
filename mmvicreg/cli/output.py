"""What a command gives: an object for ``--json``, and text or tables for a person."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from mmvicreg.errors import printable

CONTROLS = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that JSON leaves as they are and that a terminal may obey, or that cannot be encoded."""


class PlainConsole(Console):
    """Shows control characters in other people's keys, captions and names as escapes; a terminal would obey them."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


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
            unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
            text = json.dumps(self.data, ensure_ascii=not unicode, default=str)
            print(CONTROLS.sub(lambda c: f"\\u{ord(c[0]):04x}", text))
            return
        console = PlainConsole()
        if not console.is_terminal:
            console = PlainConsole(width=120)
        console.print(Group(*self.shown), markup=False, highlight=False, soft_wrap=True)
