"""Modules, optimizers and loss scalers as whole tensors on the host, and back.

Tensors are whole whatever the number of processes and however the weights are divided among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from mmvicreg.errors import InvalidValueError

SEPARATOR = " "
"""between the name of a parameter and the kind of its optimizer state"""


class TensorState(Protocol):
    """A part of a run whose state is one file of tensors in a checkpoint. Every process calls both methods."""

    def state_dict(self) -> dict[str, Tensor]:
        """Copies on the host, by name."""
        ...

    def load_state_dict(self, tensors: Mapping[str, Tensor], *, source: Path) -> None:
        """Put them back. Raises ValueError, naming ``source``, if they do not fit."""
        ...


@dataclass(frozen=True)
class ModuleState:
    """Parameters and persistent buffers of ``module``; ``prefix`` comes before every name in the file."""

    module: nn.Module
    prefix: str = ""

    def state_dict(self) -> dict[str, Tensor]:
        return {self.prefix + name: value for name, value in tensors_of(self.module).items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor], *, source: Path) -> None:
        fill(self.module, {name.removeprefix(self.prefix): x for name, x in tensors.items()}, source=source)


@dataclass(frozen=True)
class OptimizerState:
    """The optimizer's state by parameter name."""

    optimizer: torch.optim.Optimizer

    def state_dict(self) -> dict[str, Tensor]:
        return optimizer_tensors(self.optimizer)

    def load_state_dict(self, tensors: Mapping[str, Tensor], *, source: Path) -> None:
        fill_optimizer(self.optimizer, tensors)


@dataclass(frozen=True)
class ScalerState:
    """The loss scale of fp16 training."""

    scaler: torch.amp.GradScaler

    def state_dict(self) -> dict[str, Tensor]:
        return {name: torch.tensor(float(value)) for name, value in self.scaler.state_dict().items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor], *, source: Path) -> None:
        state = {name: float(value) for name, value in tensors.items()}
        whole = {name: int(state[name]) for name in ("growth_interval", "_growth_tracker") if name in state}
        self.scaler.load_state_dict(state | whole)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers on the host, whole, tied ones once; every process calls this."""
    seen: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
    found = {}
    for name, value in module.state_dict().items():
        local = value.to_local() if isinstance(value, DTensor) else value
        identity = (local.data_ptr(), tuple(local.shape), tuple(local.stride()))
        if local.numel() and identity in seen:
            continue
        seen.add(identity)
        found[name] = _whole(value)
    return found


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state on the host as {"parameter kind": tensor}; every process calls this."""
    return {
        f"{name}{SEPARATOR}{kind}": _whole(value)
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def _whole(value: Tensor) -> Tensor:
    """A contiguous host copy that shares no memory with ``value``."""
    whole = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.detach().to("cpu", copy=True).contiguous()


@torch.no_grad()
def fill(module: nn.Module, tensors: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy tensors into a module. Raises ValueError that names what is missing, left over or of another shape."""
    state = module.state_dict()
    filled = {_storage(state[name]) for name in tensors if name in state}
    # Tied weights are stored once: a name may be missing if its storage is filled under another name.
    missing = [name for name in state if name not in tensors and _storage(state[name]) not in filled]
    extra = [name for name in tensors if name not in state]
    if missing or extra:
        raise InvalidValueError(
            f"{source} does not fit the configuration: missing {missing[:3]}, unexpected {extra[:3]}"
        )
    for name, value in tensors.items():
        if state[name].shape != value.shape:
            raise InvalidValueError(
                f"{source} does not fit the configuration: {name} is {tuple(value.shape)} there and "
                f"{tuple(state[name].shape)} here"
            )
        state[name].copy_(_placed_as(state[name], value))


def _storage(value: Tensor) -> int:
    return (value.to_local() if isinstance(value, DTensor) else value).data_ptr()


def _placed_as(like: Tensor, value: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the optimizer's state back; learning rates and decays are the configuration's, not the file's."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, kind = key.rpartition(SEPARATOR)
        by_name.setdefault(name, {})[kind] = value
    members = [
        pair for group in optimizer.param_groups for pair in zip(group["names"], group["params"], strict=True)
    ]
    state = {
        number: {
            kind: _like(parameter, value) if kind != "step" else value
            for kind, value in by_name[name].items()
        }
        for number, (name, parameter) in enumerate(members)
        if name in by_name
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """``value`` on the device and with the strides of ``parameter``: fused kernels index both alike."""
    made = torch.empty_like(parameter, dtype=value.dtype)
    made.copy_(_placed_as(parameter, value))
    return made
