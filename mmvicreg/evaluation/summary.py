"""``summary.json``: the scores that a recipe or a command ends with, in one form for all of them.

Scores are flat: dotted names such as ``test.image_to_text.recall_at_1``, with one number each. A score that is a part
of a whole is a fraction between 0 and 1, in every file; tables that are printed show percent, and say so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.files import write_json

if TYPE_CHECKING:
    from mmvicreg.runs.run import Run

FORMAT = 1
PLAIN = {"learning_rate", "penalty", "median_rank", "mean_rank"}
"""Last parts of the names of scores that are neither counts nor fractions."""


@dataclass(frozen=True)
class Summary:
    """What ``summary.json`` holds.

    ``source``: the command or recipe that wrote it ("evaluate", "classify", ...). ``run``: name of the run or model;
    ``step``: the step of its weights. ``scores``: dotted name to a number, None where it is not defined. ``data``: of
    each split, how many samples were read and rejected and the digest of their keys. ``settings``: what the command was
    asked to do, where that changes the scores. ``format``: 1, of this description.
    """

    source: str
    run: str
    step: int
    scores: Mapping[str, float | None]
    data: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def of(cls, run: Run, scores: Mapping[str, Any], *, source: str) -> Summary:
        """The summary of scores of ``run``, which may be nested by split and direction."""
        return cls(source=source, run=run.folder.name, step=run.step, scores=flatten(scores))

    def write(self, path: str | Path) -> Path:
        """Write the file; a reader finds the old one or the new one, never a part."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))
        return path

    def split(self, *parts: str) -> dict[str, float | None]:
        """The scores under a dotted prefix, by the rest of their names."""
        prefix = ".".join(parts) + "."
        return {name[len(prefix) :]: v for name, v in self.scores.items() if name.startswith(prefix)}


def read_summary(path: str | Path) -> Summary:
    """Read a ``summary.json``. Raises FileNotFoundError where there is none, ValueError for another format."""
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; 'mmvicreg evaluate RUN --data SHARDS' writes one")
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InvalidValueError(
            f"{path}: expected a summary of format {FORMAT}; evaluate the run again to write one"
        )
    return Summary(**found)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    """Numbers of nested mappings under dotted names; what is no number is left out, and NaN becomes None."""
    return dict(_flat(nested, prefix))


def _flat(nested: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float | None]]:
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, bool):
            continue
        elif isinstance(value, int | float):
            yield name, value if math.isfinite(value) else None
        elif value is None:
            yield name, None


def shown(name: str, value: float | None) -> str:
    """A score as it is printed: counts with thousands, fractions in percent, the rest as it is."""
    if value is None or not math.isfinite(value):
        return "not defined"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if name.rpartition(".")[2] in PLAIN else f"{100 * value:.2f}%"
