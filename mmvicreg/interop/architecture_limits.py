"""Limits on the architecture that a stranger's export describes, checked before any of it is built.

Numbers of a configuration are bounded first; then the branch is built without memory (torch's meta device) and its
parameters are counted against the bytes of the weights that are there to fill them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from mmvicreg.errors import InvalidValueError, UserError
from mmvicreg.modalities.modality import Modality

LARGEST_CONFIG = 1_000_000
"""Bytes of a configuration file."""
LARGEST_SIDE = 8192
"""Pixels of an image side, or tokens of a text."""
MOST_LAYERS = 1_000
"""Layers of anything: the deepest published encoders have about 150."""
LARGEST_NUMBER = 10_000_000
"""Any other number of a configuration: the largest vocabularies have about a million words."""
SMALL = 1_000_000
"""Parameters that may always be built."""


def check_architecture(modality: Modality, *, where: str, stored: int, folder: Path | None = None) -> None:
    """Raise ValueError for a branch that is larger than ``stored`` bytes of weights could fill.

    ``folder`` holds the architecture files of a transformers encoder.
    """
    if folder is not None:
        for file in sorted(folder.glob("*.json")):
            if file.name.endswith("config.json"):
                _check_numbers(_read(file), where=str(file))
    try:
        with torch.device("meta"):
            branch = modality.branch()
    except UserError:
        raise
    except (RuntimeError, NotImplementedError):
        return  # an architecture of a library whose initialization needs values; its name bounds its size
    parameters = sum(parameter.numel() for parameter in branch.parameters())
    buffers = sum(buffer.numel() for buffer in branch.buffers())
    if parameters > max(stored, SMALL) or buffers > max(stored, 100 * SMALL):
        raise InvalidValueError(
            f"{where} describes {parameters:,} weights and {buffers:,} constants, the file of weights has {stored:,} "
            "bytes; refused before it is built"
        )


def _read(file: Path) -> Any:
    if file.stat().st_size > LARGEST_CONFIG:
        raise InvalidValueError(
            f"{file} has {file.stat().st_size:,} bytes; a configuration has a few thousand"
        )
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{file} is not JSON: {error}") from None


def _check_numbers(value: Any, *, where: str, name: str = "") -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_numbers(inner, where=where, name=str(key))
    elif isinstance(value, list):
        if len(value) > MOST_LAYERS and name.endswith(("layers", "depths", "sizes")):
            raise InvalidValueError(
                f"{where}: {name} has {len(value):,} entries, at most {MOST_LAYERS:,} are built"
            )
        for inner in value:
            _check_numbers(inner, where=where, name=name)
    elif isinstance(value, int | float) and name != "model_max_length":
        most = MOST_LAYERS if "layers" in name or "depth" in name else LARGEST_NUMBER
        if value > most:
            raise InvalidValueError(f"{where}: {name} is {value:,}, at most {most:,} is built; refused")
