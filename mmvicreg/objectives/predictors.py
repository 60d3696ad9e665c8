"""The predictors that a run trained: from the embeddings of one branch to the space of another.

An objective with a ``Prediction`` between two branches is scored by what each predicts of the other, beside the raw
cosine. A run directory names them in predictors.json (whose tensors they are, how wide), so that they come back
without the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmvicreg.branches.model import projector
from mmvicreg.errors import InvalidValueError
from mmvicreg.files import write_json
from mmvicreg.objectives.alignments import Prediction
from mmvicreg.objectives.objective import Objective

FILE = "predictors.json"
BATCH = 4096
LARGEST = 1 << 20
FREE = 1 << 20
"""Weights that are built whatever a file holds: reading it then says what is wrong with it."""

Predictors = dict[tuple[str, str], nn.Module]
"""(from branch, to branch): a module from z (n, D_from) to (n, D_to)."""


def predictors_of(objective: Objective, views: Mapping[str, str]) -> Predictors:
    """The predictors between different branches; where two pairs of views join the same branches, the first's.

    ``views``: the branch of each view.
    """
    found: Predictors = {}
    for (a, b), alignment in objective.alignments(tuple(views)).items():
        if views[a] == views[b]:
            continue
        for module in alignment.modules():
            if isinstance(module, Prediction):
                found.setdefault((views[a], views[b]), module.from_a)
                found.setdefault((views[b], views[a]), module.from_b)
    return found


def between(predictors: Predictors, a: str, b: str) -> nn.Module:
    """The predictor from branch a to branch b; ValueError with those there are."""
    if (a, b) not in predictors:
        known = ", ".join(f"{first} to {second}" for first, second in predictors) or "none"
        raise InvalidValueError(f"no predictor from {a!r} to {b!r} in this run; it has {known}")
    return predictors[a, b].eval()


def describe(predictors: Mapping[tuple[str, str], nn.Module]) -> list[dict[str, Any]]:
    """Branches and widths, as JSON."""
    return [{"from": a, "to": b, "widths": _widths(module)} for (a, b), module in predictors.items()]


def _widths(module: nn.Module) -> list[int]:
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)]


def build(description: Any, *, source: Path, stored: int) -> Predictors:
    """Untrained predictors from :func:`describe`'s JSON. Raises ValueError where it is something else, or has more
    weights than the ``stored`` bytes there are to fill them."""
    if not isinstance(description, list):
        raise InvalidValueError(f"{source}: expected a list of predictors, found {description!r:.80}")
    made: Predictors = {}
    for entry in description:
        a, b, widths = (
            (entry.get(key) for key in ("from", "to", "widths")) if isinstance(entry, dict) else (0, 0, 0)
        )
        whole = isinstance(widths, list) and all(
            type(width) is int and 0 < width <= LARGEST for width in widths
        )
        if not (
            isinstance(a, str)
            and isinstance(b, str)
            and isinstance(widths, list)
            and whole
            and len(widths) > 1
        ):
            raise InvalidValueError(
                f"{source}: expected a predictor with from, to and two widths or more, found {entry!r:.80}"
            )
        if sum(first * second for first, second in pairwise(widths)) > max(stored, FREE):
            raise InvalidValueError(
                f"{source}: a predictor has the widths {widths}, and there are {stored:,} bytes of weights"
            )
        made[a, b] = projector(widths[0], widths[1:]).eval()
    return made


def write(folder: Path, module: nn.Module, found: Predictors) -> None:
    """predictors.json of a run directory, none where nothing is predicted; ``module`` holds what was ``found``."""
    if not found:
        return
    names = {each: name for name, each in module.named_modules()}
    entries = [
        entry | {"tensors": names[each]} for entry, each in zip(describe(found), found.values(), strict=True)
    ]
    write_json(folder / FILE, entries)


def read(folder: Path, weights: Path) -> Predictors:
    """The predictors of a run directory, with the tensors of the safetensors file ``weights``.

    Raises ValueError where they do not fit.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    tensors = load_file(weights)
    description = json.loads(file.read_text(encoding="utf-8"))
    made = build(description, source=file, stored=weights.stat().st_size)
    for entry, module in zip(description, made.values(), strict=True):
        fill(module, tensors, prefix=f"{entry.get('tensors')}.", source=file)
    return made


def fill(module: nn.Module, tensors: Mapping[str, Tensor], *, prefix: str, source: Path) -> None:
    """Weights from the tensors whose names begin with ``prefix``. Raises ValueError where they do not fit."""
    mine = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(mine, strict=True)
    except RuntimeError as error:
        raise InvalidValueError(f"{source}: the tensors {prefix}* do not fit its widths: {error}") from None


@torch.inference_mode()
def predict(module: nn.Module, z_MD: np.ndarray, *, device: str | torch.device = "cpu") -> np.ndarray:
    """What a branch's rows predict of another branch, float32 (M, D_to), in batches of fixed size."""
    module = module.eval().to(device)
    rows = [torch.from_numpy(np.array(z_MD[start : start + BATCH])) for start in range(0, len(z_MD), BATCH)]
    found = [module(part.to(device)).float().cpu() for part in rows]
    return torch.cat(found).numpy()
