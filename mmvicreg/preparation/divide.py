"""Records into a training, a validation and a test part by a seed; records of one group stay together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from mmvicreg.errors import InvalidValueError, WrongOptionError
from mmvicreg.preparation.records import Record


@dataclass(frozen=True)
class Fractions:
    """Fractions of the groups (images, or values of --columns.group) that are held out; the rest is for training."""

    validation: float = 0.0
    """fraction of the groups for validation-*.tar, between 0 and 1"""
    test: float = 0.0
    """fraction of the groups for test-*.tar, between 0 and 1"""
    seed: int = 0
    """seed of the choice of groups"""

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise WrongOptionError(
                f"--divide.validation {self.validation} and --divide.test {self.test}: expected fractions of 0 or more "
                "with a sum below 1"
            )

    def parts(self) -> dict[str, float]:
        """The parts that are held out, by the prefix of their shards."""
        parts = {"test": self.test, "validation": self.validation}
        return {name: fraction for name, fraction in parts.items() if fraction}


def divide(records: Sequence[Record], fractions: Fractions, *, prefix: str) -> dict[str, list[Record]]:
    """The records of each part by its prefix, in their order; a part that is asked for has at least one group.

    Groups are ordered by a hash of seed and name, and the first of that order are held out: no random state, the same
    on every machine. Raises InvalidValueError where there are fewer groups than parts.
    """
    wanted = fractions.parts()
    if not wanted:
        return {prefix: list(records)}
    groups = sorted({_group(record) for record in records}, key=lambda name: _order(fractions.seed, name))
    if len(groups) <= len(wanted):
        raise InvalidValueError(
            f"{len(groups)} groups cannot be divided into {len(wanted) + 1} parts; pack more"
        )
    part: dict[str, str] = {}
    start = 0
    for name, fraction in wanted.items():
        count = max(1, round(fraction * len(groups)))
        part |= dict.fromkeys(groups[start : start + count], name)
        start += count
    found: dict[str, list[Record]] = {name: [] for name in (prefix, *reversed(wanted))}
    for record in records:
        found[part.get(_group(record), prefix)].append(record)
    return found


def _group(record: Record) -> str:
    return record.group or record.file or record.name


def _order(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
