"""The largest batch that fits: powers of two, each tried with a real forward and backward pass."""

from __future__ import annotations

import resource
from collections.abc import Callable

import torch

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError
from mmvicreg.stream.reader import Reader
from mmvicreg.training.dry_run import rehearse
from mmvicreg.training.step import Step

SMALLEST, LARGEST = 8, 1 << 17


def largest_power(fits: Callable[[int], bool], *, limit: int) -> int:
    """The largest power of two up to ``limit`` for which ``fits``, asked upwards from 8. Raises ValueError where
    8 does not fit."""
    found, size = 0, SMALLEST
    while size <= limit and fits(size):
        found, size = size, 2 * size
    if not found:
        raise InvalidValueError(
            f"batch_size auto: not even {SMALLEST} rows a process fit (limit {limit}); set gradient_cache_size, "
            "activation_checkpointing or precision bf16, choose smaller encoders, or more data"
        )
    return found


def search(module: Step, readers: dict[str, Reader], *, device: torch.device, samples: int) -> int:
    """The largest global batch: rows a process times processes. Every process calls this.

    On a GPU a size fits where a step of it does not run out of memory, the optimizer's state included; on a
    CPU where the growth of the process's memory, doubled, stays below half of what the machine has free.
    """
    world = distributed.world_size()

    def fits(rows: int) -> bool:
        good = _try(module, readers, rows, device=device)
        flag = torch.tensor([float(not good)], device=device)
        return not bool(distributed.all_reduce_max(flag).item())

    return world * largest_power(fits, limit=min(samples // world, LARGEST))


def _try(module: Step, readers: dict[str, Reader], rows: int, *, device: torch.device) -> bool:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        trained = [p for p in module.parameters() if p.requires_grad]
        moments = [torch.empty_like(p) for p in trained for _ in range(2)]
        rehearse(module, module, readers, rows=rows, device=device, targets=True)
        del moments
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    if device.type == "cuda":
        return True
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return 2 * 2 * grown < _free_memory()


def _free_memory() -> int:
    import psutil  # a dependency of accelerate

    return int(psutil.virtual_memory().available)
