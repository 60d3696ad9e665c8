"""A step on zeros that leaves nothing behind: to try a size, and to settle how DDP lays gradients out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mmvicreg.stream.reader import Reader
from mmvicreg.training.monitoring.guards import BufferCopies
from mmvicreg.training.step import Step


def rehearse(
    module: nn.Module,
    inner: Step,
    readers: Mapping[str, Reader],
    *,
    rows: int,
    device: torch.device,
    targets: bool,
) -> None:
    """Forward and backward of ``rows`` zeros a view through ``module``: ``inner``, wrapped or not.

    Gradients are dropped and buffers put back. ``targets``: whether the objective is given embeddings of momentum
    branches. Every process calls this.
    """
    buffers = BufferCopies(inner)
    buffers.keep()
    inputs = {
        view: torch.zeros((rows, *reader.shape), dtype=reader.dtype, device=device)
        for view, reader in readers.items()
    }
    present = {view: torch.ones(rows, dtype=torch.bool) for view in readers}
    goal = None
    try:
        if targets:
            with torch.no_grad():
                found = inner.model(inputs, present, precomputed=inner.precomputed)
            goal = {view: embedding.z for view, embedding in found.items()}
        module(inputs, present, 0, goal).terms.total.backward()
    finally:
        module.zero_grad(set_to_none=True)
        buffers.restore()
