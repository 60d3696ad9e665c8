"""The optimizer: parameter groups of the branches, AdamW or LARS, gradient norms, and the learning-rate schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmvicreg.branches.model import Branch, Model
from mmvicreg.errors import InvalidValueError, UnknownNameError
from mmvicreg.runs.options import OptimizerConfig

BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers|layer|resblocks|stages|h)\.?(\d+)\.")
STEM = re.compile(r"embed|stem|patch|conv1|bn1|cls_token|positional|^1\.norm_pre|ln_pre")
COOLDOWN = 0.2
"""fraction of the run over which a trapezoid falls (chosen)"""


def parameter_groups(
    model: Model, objective: nn.Module, config: OptimizerConfig, *, later: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """Parameter groups by branch (and one for the objective), each with one learning rate and one weight decay.

    ``peak`` is the group's learning rate at the end of warm-up; 1-D parameters and those that ``config.no_decay``
    matches have no decay. Parameters that need no gradient are left out, except those of the encoders in ``later``,
    which are unfrozen during the run. Unlike timm's param_groups_layer_decay this also groups towers of transformers
    and open_clip, which have no ``group_matcher``, and keeps the branches apart.
    """
    found: dict[tuple[str, float, bool, bool], list[tuple[str, nn.Parameter]]] = {}
    for branch, name, parameter, fraction in _owned(model, objective, config.layer_decay):
        waits = branch in later and name.startswith(f"model.branches.{branch}.encoder.")
        if not (parameter.requires_grad or waits):
            continue
        decays = parameter.ndim > 1 and not any(re.search(each, name) for each in config.no_decay)
        peak = _learning_rate(model, branch, config) * fraction
        divided = isinstance(parameter, DTensor)  # fused kernels take whole tensors or divided ones, not both
        found.setdefault((branch, peak, decays, divided), []).append((name, parameter))
    return [
        {
            "params": [parameter for _, parameter in members],
            "names": [name for name, _ in members],
            "name": branch,
            "peak": peak,
            "lr": peak,
            "weight_decay": config.weight_decay if decays else 0.0,
            "adapt": decays,
        }
        for (branch, peak, decays, _), members in found.items()
    ]


def _learning_rate(model: Model, owner: str, config: OptimizerConfig) -> float:
    if owner not in model.branches:
        return config.learning_rate
    branch = model.branches[owner]
    assert isinstance(branch, Branch)
    return config.learning_rate if branch.learning_rate is None else branch.learning_rate


def _owned(
    model: Model, objective: nn.Module, layer_decay: float
) -> Iterator[tuple[str, str, nn.Parameter, float]]:
    """(branch, name, parameter, fraction of the branch's learning rate) of every parameter."""
    for branch, module in model.branches.items():
        assert isinstance(module, Branch)
        names = [name for name, _ in module.encoder.named_parameters()]
        depths = layer_depths(names)
        deepest = max(depths.values(), default=0)
        for name, parameter in module.named_parameters():
            depth = depths.get(name.removeprefix("encoder."), deepest)
            yield branch, f"model.branches.{branch}.{name}", parameter, layer_decay ** (deepest - depth)
    for name, parameter in objective.named_parameters():
        yield "objective", f"objective.{name}", parameter, 1.0


def layer_depths(names: list[str]) -> dict[str, int]:
    """Depth of each parameter of an encoder by its name: 0 for embeddings and stem, 1 for block 0, and so on.

    Parameters of neither block nor stem (final norms, poolers) belong to the last block.
    """
    found = {name: BLOCK.search(name) for name in names}
    deepest = max((int(match[1]) + 1 for match in found.values() if match), default=0)
    return {
        name: int(match[1]) + 1 if match else 0 if STEM.search(name) else deepest
        for name, match in found.items()
    }


def make_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW with fused kernels, or LARS. Raises ValueError if there is nothing to train."""
    if not groups:
        raise InvalidValueError(
            "nothing to train: every branch is frozen and has no projector; widen a projector"
        )
    if config.name == "adamw":
        fused = all(p.device.type in ("cpu", "cuda", "xpu") for group in groups for p in group["params"])
        return torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=fused
        )
    return Lars(groups, learning_rate=config.learning_rate, momentum=config.beta1)


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888) in the form of the VICReg paper.

    d = g + weight_decay p; d <- d trust |p| / |d| in groups that ``adapt`` (no 1-D parameters); m = momentum m
    + d; p <- p - lr m. VICReg's setting: momentum 0.9, trust 0.001, weight decay 1e-6. timm's Lars divides by
    |g| + weight_decay |p| instead of |g + weight_decay p|: another update, so it does not replace this one.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        learning_rate: float,
        momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": learning_rate, "momentum": momentum, "trust": trust, "weight_decay": 0.0}
        super().__init__(groups, {**defaults, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient. ``closure`` is not supported."""
        assert closure is None, "LARS takes no closure"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                change = parameter.grad.add(parameter, alpha=group["weight_decay"])
                if group["adapt"]:
                    size, length = parameter.norm(), change.norm()
                    rate = torch.where((size > 0) & (length > 0), group["trust"] * size / length, 1.0)
                    change = change * rate
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                state["momentum_buffer"].mul_(group["momentum"]).add_(change)
                parameter.add_(state["momentum_buffer"], alpha=-group["lr"])


def gradient_norms(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Norm of the gradient of each branch: fp32 () on the device, without a host sync."""
    grads: dict[str, list[Tensor]] = {}
    for group in optimizer.param_groups:
        grads.setdefault(group["name"], []).extend(p.grad for p in group["params"] if p.grad is not None)
    return {name: _norm(each) for name, each in grads.items() if each}


def _norm(grads: list[Tensor]) -> Tensor:
    norms = [torch.nn.utils.get_total_norm(each) for each in _by_kind(grads)]
    whole = [(norm.full_tensor() if isinstance(norm, DTensor) else norm).float() for norm in norms]
    return whole[0] if len(whole) == 1 else torch.linalg.vector_norm(torch.stack(whole))


def _by_kind(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Whole tensors apart from those divided among the processes; the one or two lists that are not empty."""
    kinds: dict[bool, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(isinstance(tensor, DTensor), []).append(tensor)
    return list(kinds.values())


def total_norm(norms: dict[str, Tensor]) -> Tensor:
    """Norm of the whole gradient, () fp32, from those of its branches."""
    return torch.linalg.vector_norm(torch.stack(list(norms.values())))


@torch.no_grad()
def clip_gradients(optimizer: torch.optim.Optimizer, norm: Tensor, largest: float) -> None:
    """Scale the gradient, whose norm is ``norm``, down to ``largest``; 0 or infinity leaves it as it is."""
    if not largest or math.isinf(largest):
        return
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    for each in _by_kind(trained):
        torch.nn.utils.clip_grads_with_norm_(each, largest, norm)


def learning_rate_factor(
    done: float, *, warmup: float, total: float, config: OptimizerConfig, unit: float = 1.0
) -> float:
    """Learning rate as a fraction of its peak after ``done`` of ``total`` samples; ``unit`` is the samples of a step.

    Linear to 1 over ``warmup``, then cosine (VICReg's and CLIP's), linear or constant to ``config.final_fraction``;
    trapezoid is constant and falls linearly over the last fifth. SGDR (arXiv 1608.03983) for the cosine.
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
    """Set the learning rate of every group to its peak times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def freeze_until(model: Model, unfreeze_at: Mapping[str, int], step: int) -> bool:
    """Freeze the encoders whose step is still to come and unfreeze the others; True if that changed any.

    Raises KeyError for a branch that does not exist, ValueError for one that is frozen for the whole run.
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
