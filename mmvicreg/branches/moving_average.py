"""Exponential moving averages of a model: for evaluation, and as the momentum branches that give targets."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmvicreg.branches.model import Branch, Model
from mmvicreg.errors import InvalidValueError


class MovingAverage:
    """A copy of ``model`` whose weights follow it: w <- momentum w + (1 - momentum) model's, after each step.

    Buffers (running statistics) are the model's own. An encoder that is frozen for the whole run is shared with
    the model, so the copy costs memory for what is trained alone.
    """

    def __init__(self, model: Model, momentum: float) -> None:
        if not 0 <= momentum < 1:
            raise InvalidValueError(f"the momentum of a moving average is in [0, 1); found {momentum}")
        self.momentum = momentum
        shared = {id(p): p for branch in model.branches.values() for p in _locked(branch)}
        self.model: Model = copy.deepcopy(model, shared)
        for parameter in self.model.parameters():
            if id(parameter) not in shared:
                parameter.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Follow ``model`` by one step."""
        pairs: dict[bool, tuple[list[Tensor], list[Tensor]]] = {}
        for mine, new in zip(self.model.parameters(), model.parameters(), strict=True):
            if mine is not new:  # one call takes whole tensors or shared ones, not both
                ours, theirs = pairs.setdefault(isinstance(mine, DTensor), ([], []))
                ours.append(mine)
                theirs.append(new)
        for ours, theirs in pairs.values():
            torch._foreach_lerp_(ours, theirs, 1 - self.momentum)
        for kept, current in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(current)

    @torch.no_grad()
    def targets(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor], *, precomputed: frozenset[str]
    ) -> dict[str, Tensor]:
        """Embeddings (B, D) by view, with the statistics of the batch, as BYOL's and MoCo's targets have."""
        self.model.train()
        found = self.model(inputs, present, precomputed=precomputed)
        return {view: embedding.z for view, embedding in found.items()}


def _locked(branch: nn.Module) -> list[nn.Parameter]:
    assert isinstance(branch, Branch)
    return list(branch.encoder.parameters()) if branch.frozen and not branch.waiting else []
