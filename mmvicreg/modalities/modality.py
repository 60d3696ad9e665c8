"""What a modality is: plain fields, a reader of its bytes, a branch for its arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mmvicreg.errors import InvalidValueError

if TYPE_CHECKING:
    from mmvicreg.branches.model import Branch
    from mmvicreg.stream.reader import Reader


@runtime_checkable
class Modality(Protocol):
    """A frozen dataclass of plain fields (they are saved as JSON) with these two methods. Nothing to register."""

    def reader(self) -> Reader:
        """Bytes to an array, in a loader thread; holds no weights."""
        ...

    def branch(self) -> Branch:
        """Encoder and projector, freshly made."""
        ...


def modalities_of(config: Any) -> dict[str, Modality]:
    """The fields of a dataclass that are modalities, by field name."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: value for name, value in values.items() if isinstance(value, Modality)}


NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
"""Names of branches and views: they become names of files and of metrics."""


def check_names(names: Iterable[object], *, where: object) -> None:
    """Raise ValueError for a branch or view name that could not be the name of a file in a folder of ours.

    Configurations come from strangers: every reader of one calls this before a name is used.
    """
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InvalidValueError(
                f"{where}: the name {name!r} of a branch or view has other characters than letters, digits, - and _, "
                "or more than 100; refused"
            )
