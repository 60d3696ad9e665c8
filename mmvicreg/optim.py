"""Parameter groups of branches, the optimizer, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from mmvicreg.config import OptimizerConfig
from mmvicreg.model import Model


def parameter_groups(model: Model, objective: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Two groups a branch, and two for what the objective learns: with decay, and without (1-D parameters).

    ``peak`` is the group's learning rate at the end of warm-up; parameters that need no gradient are left out.
    """
    groups: list[dict[str, Any]] = []
    owners: list[tuple[str, nn.Module, float | None]] = [
        (name, branch, branch.learning_rate)  # type: ignore[misc]
        for name, branch in model.branches.items()
    ]
    for name, owner, learning_rate in [*owners, ("objective", objective, None)]:
        peak = config.learning_rate if learning_rate is None else learning_rate
        trained = [parameter for parameter in owner.parameters() if parameter.requires_grad]
        for decay in (True, False):
            chosen = [parameter for parameter in trained if (parameter.ndim > 1) == decay]
            if chosen:
                groups.append(
                    {
                        "params": chosen,
                        "name": name,
                        "peak": peak,
                        "lr": peak,
                        "weight_decay": config.weight_decay if decay else 0.0,
                    }
                )
    return groups


def make_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, or LARS as Meta's VICReg code sets it (1-D parameters without decay and without adaptation)."""
    if not groups:
        raise ValueError("nothing to train: every branch is frozen and has no projector; widen a projector")
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))
    from timm.optim import Lars

    return Lars(groups, lr=config.learning_rate, momentum=config.beta1, trust_coeff=0.001)


def learning_rate_factor(step: int, *, warmup: int, total: int, final: float) -> float:
    """Share of the peak at ``step`` (from 0): linear to 1 over ``warmup`` steps, then cosine to ``final``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its peak times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
