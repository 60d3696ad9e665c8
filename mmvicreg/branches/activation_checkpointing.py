"""Activation checkpointing of any encoder: activations inside its blocks are recomputed in the backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from mmvicreg.branches.batch_norm import batch_norm_layers
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
    """Let the blocks of each trained encoder keep their inputs only; the number of blocks by branch.

    Blocks with batch normalization are left alone: run twice, they would count their rows twice. Dropout draws the same
    masks in both passes. Raises ValueError where no block is left.
    """
    counts = {}
    for name, branch in model.branches.items():
        assert isinstance(branch, Branch)
        if branch.frozen and not branch.waiting:
            continue
        blocks = [block for block in repeated_blocks(branch.encoder) if not batch_norm_layers(block)]
        for block in blocks:
            inner: Any = block.forward
            block.forward = partial(checkpoint, inner, use_reentrant=False)
        counts[name] = len(blocks)
    if not any(counts.values()):
        raise InvalidValueError(
            "activation_checkpointing is set, but no trained encoder has repeated blocks without batch normalization; "
            "leave activation_checkpointing out, or bound memory with --gradient-cache-size"
        )
    return counts
