"""Gradient checkpointing of any encoder: forget what is inside its blocks and compute it again on the way back."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmvicreg.branches.model import Branch, Model
from mmvicreg.errors import InvalidValueError


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The outermost runs of two or more children of one type in a list or a sequence: the blocks of a network."""
    children = list(module.children())
    if isinstance(module, nn.ModuleList | nn.Sequential) and len(children) > 1:
        types = {type(child) for child in children}
        if len(types) == 1 and any(True for _ in children[0].children()):
            return children
    return [block for child in children for block in repeated_blocks(child)]


def recompute_blocks(model: Model) -> dict[str, int]:
    """Blocks of each trained encoder keep their inputs only; how many, by branch.

    Blocks with batch normalisation are left alone: run twice, they would count their rows twice. Raises
    ValueError where that leaves nothing. Dropout falls the same in both passes.
    """
    counts = {}
    for name, branch in model.branches.items():
        assert isinstance(branch, Branch)
        if branch.frozen and not branch.waiting:
            continue
        blocks = [block for block in repeated_blocks(branch.encoder) if not _normalises_batches(block)]
        for block in blocks:
            inner: Any = block.forward
            block.forward = partial(checkpoint, inner, use_reentrant=False)
        counts[name] = len(blocks)
    if not any(counts.values()):
        raise InvalidValueError(
            "activation_checkpointing is set, but no trained encoder has repeated blocks without batch normalisation; "
            "leave activation_checkpointing out, or bound memory with --gradient-cache-size"
        )
    return counts


def _normalises_batches(block: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in block.modules())
