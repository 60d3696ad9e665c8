"""The largest batch that fits: powers of two, each tried with a real forward and backward pass."""

from __future__ import annotations

import resource
from collections.abc import Callable

import torch

from mmvicreg import distributed
from mmvicreg.guards import BufferCopies
from mmvicreg.reader import Reader
from mmvicreg.step import Step

SMALLEST, LARGEST = 8, 1 << 17


def largest_power(fits: Callable[[int], bool], *, limit: int) -> int:
    """The largest power of two up to ``limit`` for which ``fits``, asked upwards from 8. Raises ValueError where
    8 does not fit."""
    found, size = 0, SMALLEST
    while size <= limit and fits(size):
        found, size = size, 2 * size
    if not found:
        raise ValueError(
            f"batch_size auto: not even {SMALLEST} rows a process fit (limit {limit}); set chunk, recompute or "
            "precision bf16, choose smaller encoders, or more data"
        )
    return found


def search(module: Step, readers: dict[str, Reader], *, device: torch.device, samples: int) -> int:
    """The largest global batch: rows a process times processes. Every process calls this.

    On a GPU a size fits where a step of it does not run out of memory, the optimizer's state included; on a
    CPU where the growth of the process's memory, doubled, stays below half of what the machine has free.
    """
    world = distributed.world_size()
    copies = BufferCopies(module)
    copies.keep()

    def fits(rows: int) -> bool:
        good = _try(module, readers, rows, device=device)
        flag = torch.tensor([float(not good)], device=device)
        return not bool(distributed.all_reduce_max(flag).item())

    found = largest_power(fits, limit=min(samples // world, LARGEST))
    copies.restore()
    module.zero_grad(set_to_none=True)
    return found * world


def _try(module: Step, readers: dict[str, Reader], rows: int, *, device: torch.device) -> bool:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        trained = [p for p in module.parameters() if p.requires_grad]
        moments = [torch.empty_like(p) for p in trained for _ in range(2)]
        inputs = {
            view: torch.zeros((rows, *reader.shape), dtype=reader.dtype, device=device)
            for view, reader in readers.items()
        }
        present = {view: torch.ones(rows, dtype=torch.bool) for view in readers}
        with torch.no_grad():
            z = {view: found.z for view, found in module.model(inputs, present).items()}
        output = module(inputs, present, 0, targets=z)
        output.terms.total.backward()
        del moments
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    finally:
        module.zero_grad(set_to_none=True)
    if device.type == "cuda":
        return True
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return 2 * 2 * grown < _free_memory()


def _free_memory() -> int:
    import psutil  # a dependency of accelerate

    return int(psutil.virtual_memory().available)
