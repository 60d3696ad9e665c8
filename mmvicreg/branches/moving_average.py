"""Exponential moving average of a model, for evaluation and for the targets of alignments with a momentum."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mmvicreg.branches.model import Branch, Model
from mmvicreg.errors import InvalidValueError


class MovingAverage:
    """A copy of ``model`` whose weights follow it: w <- momentum w + (1 - momentum) w of the model, at each step.

    Buffers (running statistics) are copies of the model's. The arithmetic is torch's (``get_ema_multi_avg_fn``), and
    the weights equal those of ``torch.optim.swa_utils.AveragedModel`` bit for bit. That class is not used itself,
    because it copies encoders that are frozen for the whole run, which are shared with the model here, averages
    buffers or ignores them, and passes whole and sharded weights to one fused call.
    """

    def __init__(self, model: Model, momentum: float) -> None:
        if not 0 <= momentum < 1:
            raise InvalidValueError(f"the momentum of a moving average is in [0, 1); found {momentum}")
        self.momentum = momentum
        self._average = get_ema_multi_avg_fn(momentum)
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
            if mine is not new:  # one fused call takes whole tensors or sharded ones, not both
                ours, theirs = pairs.setdefault(isinstance(mine, DTensor), ([], []))
                ours.append(mine)
                theirs.append(new)
        for ours, theirs in pairs.values():
            self._average(ours, theirs, 0)
        for kept, current in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(current)

    @torch.no_grad()
    def targets(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor], *, precomputed: frozenset[str]
    ) -> dict[str, Tensor]:
        """Embeddings (B, D) by view, normalized with the statistics of the batch as in BYOL and MoCo."""
        self.model.train()
        found = self.model(inputs, present, precomputed=precomputed)
        return {view: embedding.z for view, embedding in found.items()}


def _locked(branch: nn.Module) -> list[nn.Parameter]:
    assert isinstance(branch, Branch)
    return list(branch.encoder.parameters()) if branch.frozen and not branch.waiting else []
