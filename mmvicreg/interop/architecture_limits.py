"""Limits on the architecture that a stranger's export describes, checked before any of it is built.

Numbers of a configuration are bounded first; then the branch is built without memory (torch's meta device) and its
parameters are counted against the bytes of the weights that are there to fill them.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmvicreg.errors import InvalidValueError, UserError
from mmvicreg.modalities.encoders.hugging_face import read_config
from mmvicreg.modalities.modality import Modality

LARGEST_CONFIG = 1_000_000
"""Bytes of a configuration file."""
LARGEST_SIDE = 8192
"""Pixels of an image side, or tokens of a text."""
MOST_LAYERS = 1_000
"""Layers of anything: the deepest published encoders have about 150."""
MOST_LABELS = 100_000
"""Classes of a classifier: transformers makes a name of each when it reads the configuration."""
LARGEST_NUMBER = 10_000_000
"""Any other number of a configuration: the largest vocabularies have about a million words."""
LIMITS = {"label": MOST_LABELS, "layer": MOST_LAYERS, "depth": MOST_LAYERS, "block": MOST_LAYERS}
"""The largest number of a configuration whose name has this part."""
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
        _check_count(_transformers_model(folder), where=str(folder), stored=stored)
    try:
        with torch.device("meta"):
            branch: nn.Module = modality.branch()
    except UserError:
        raise
    except (RuntimeError, NotImplementedError):
        # A library's initialization needs values; the name of the architecture, or the check above, bounds its size.
        _check_projector(modality, where=where, stored=stored)
        return
    _check_count(branch, where=where, stored=stored)


def _transformers_model(folder: Path) -> nn.Module:
    """The model that a folder describes, on the meta device."""
    from transformers import AutoModel

    config = read_config(str(folder), encoder=f"transformers/{folder}")
    try:
        with torch.device("meta"):
            return AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # a stranger's numbers make a library raise anything
        raise InvalidValueError(
            f"{folder} describes no model that transformers can build: {type(error).__name__}: {str(error)[:200]}"
        ) from None


def _check_projector(modality: Modality, *, where: str, stored: int) -> None:
    """The widths of the projector alone, between layers: its first matrix depends on the encoder."""
    widths = dict(vars(modality)).get("projector", ())
    matrices = sum(a * b for a, b in pairwise(widths))
    if matrices > max(stored, SMALL):
        raise InvalidValueError(
            f"{where} describes a projector of {matrices:,} weights, the file of weights has {stored:,} bytes; refused "
            "before it is built"
        )


def _check_count(module: nn.Module, *, where: str, stored: int) -> None:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    buffers = sum(buffer.numel() for buffer in module.buffers())
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
        if len(value) > MOST_LAYERS and not name.endswith(("ids", "tokens")):
            raise InvalidValueError(
                f"{where}: {name} has {len(value):,} entries, at most {MOST_LAYERS:,} are built"
            )
        for inner in value:
            _check_numbers(inner, where=where, name=name)
    elif isinstance(value, int | float) and name != "model_max_length":
        most = next((limit for part, limit in LIMITS.items() if part in name), LARGEST_NUMBER)
        if not abs(value) <= most:  # NaN too
            raise InvalidValueError(f"{where}: {name} is {value:,}, at most {most:,} is built; refused")
