"""What a modality is: plain fields, a reader of its bytes, a branch for its arrays."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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
