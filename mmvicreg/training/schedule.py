"""The learning rate as a function of the samples seen, and when encoders begin to learn."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from mmvicreg.branches.model import Branch, Model
from mmvicreg.errors import UnknownNameError
from mmvicreg.runs.options import OptimizerConfig

COOLDOWN = 0.2
"""Share of the run in which a trapezoid falls (chosen)."""


def learning_rate_factor(
    done: float, *, warmup: float, total: float, config: OptimizerConfig, unit: float = 1.0
) -> float:
    """Share of the peak when ``done`` samples (or steps) of ``total`` are seen; ``unit`` is one step of them.

    Linear to 1 over ``warmup``, then cosine (VICReg's and CLIP's), linear or constant to ``config.final_fraction``;
    trapezoid is constant and falls linearly over the last fifth.
    """
    if done < warmup:
        return min(1.0, (done + unit) / warmup)
    progress = min(1.0, (done - warmup) / max(unit, total - warmup))
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "linear":
        left = 1.0 - progress
    elif config.schedule == "trapezoid":
        left = min(1.0, (1.0 - progress) / COOLDOWN)
    else:
        left = 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_fraction + (1 - config.final_fraction) * left


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its peak times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def freeze_until(model: Model, unfreeze_at: Mapping[str, int], step: int) -> bool:
    """Freeze the encoders whose step has not come, and free the others; True where one was freed or frozen.

    Raises KeyError for a branch that is not there, ValueError for one that is frozen for good.
    """
    changed = False
    for name, when in unfreeze_at.items():
        if name not in model.branches:
            raise UnknownNameError(
                f"unfreeze_at names branch {name!r}; the branches are {sorted(model.branches)}"
            )
        branch = model.branches[name]
        assert isinstance(branch, Branch)
        changed |= branch.freeze(step < when)
    return changed
