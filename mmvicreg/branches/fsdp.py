"""FSDP2: each process keeps a part of the weights of the branches, and gathers a block when it runs."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mmvicreg import distributed
from mmvicreg.branches.activation_checkpointing import repeated_blocks
from mmvicreg.branches.model import Branch, Model


def shard(model: Model, device: torch.device) -> None:
    """Shard encoders (block by block) and projectors over all processes, in place.

    What the objective learns (a scale, a predictor) stays whole on every process; its gradient is averaged by
    the loop. On one process nothing is done.
    """
    if distributed.world_size() == 1:
        return
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for branch in model.branches.values():
        assert isinstance(branch, Branch)
        for block in repeated_blocks(branch.encoder):
            fully_shard(block, mesh=mesh)
        for part in (branch.encoder, branch.projector):
            if any(True for _ in part.parameters()):
                fully_shard(part, mesh=mesh)
