"""A forward and backward pass on zeros that leaves no trace, and the largest batch for which it fits in memory."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping

import psutil
import torch
from torch import nn

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError
from mmvicreg.stream.reader import Reader
from mmvicreg.training.monitoring.guards import BufferCopies
from mmvicreg.training.step import Step

SMALLEST, LARGEST = 8, 1 << 17
"""samples a process: the smallest and the largest batch that is tried"""


def dry_run(
    module: nn.Module,
    inner: Step,
    readers: Mapping[str, Reader],
    *,
    rows: int,
    device: torch.device,
    targets: bool,
) -> None:
    """Forward and backward pass of ``rows`` zeros a view through ``module``: ``inner``, wrapped or not.

    Gradients are dropped and buffers restored. ``targets``: whether the objective is given embeddings of momentum
    branches. Every process calls this.
    """
    buffers = BufferCopies(inner)
    buffers.capture()
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


def largest_power(fits: Callable[[int], bool], *, limit: int) -> int:
    """The largest power of two up to ``limit`` for which ``fits``, tried upwards from 8.

    Raises ValueError if 8 does not fit.
    """
    found, size = 0, SMALLEST
    while size <= limit and fits(size):
        found, size = size, 2 * size
    if not found:
        raise InvalidValueError(
            f"batch_size auto: not even {SMALLEST} samples a process fit (limit {limit}); set gradient_cache_size, "
            "activation_checkpointing or precision bf16, choose smaller encoders, or more data"
        )
    return found


def largest_batch(module: Step, readers: dict[str, Reader], *, device: torch.device, samples: int) -> int:
    """The largest global batch: samples a process times processes. Every process calls this.

    On a GPU a size fits if a step of it, including the optimizer's state, does not run out of memory; on a CPU if
    twice the growth of the process's memory is below half of what the machine has free.
    """
    world = distributed.world_size()

    def fits(rows: int) -> bool:
        good = _fits(module, readers, rows, device=device)
        flag = torch.tensor([float(not good)], device=device)
        return not bool(distributed.all_reduce_max(flag).item())

    return world * largest_power(fits, limit=min(samples // world, LARGEST))


def _fits(module: Step, readers: dict[str, Reader], rows: int, *, device: torch.device) -> bool:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        trained = [p for p in module.parameters() if p.requires_grad]
        moments = [torch.empty_like(p) for p in trained for _ in range(2)]
        dry_run(module, module, readers, rows=rows, device=device, targets=True)
        del moments
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    if device.type == "cuda":
        return True
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return 2 * 2 * grown < int(psutil.virtual_memory().available)
