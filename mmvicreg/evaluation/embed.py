"""Embed a data set once: every item of every sample, on any number of processes, into a store.

The samples are cut into blocks of fixed size; each process takes a contiguous range of blocks, and batches
never cross a block. What enters a batch, and so every bit of the result, is the same for any number of
processes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.branches.model import Model
from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.store import Block, Store, join, open_store, write_block
from mmvicreg.progress import bar
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.evaluation_items import EvaluationItem, RejectedItem, evaluation_items
from mmvicreg.stream.reader import Reader

BLOCK = 256
"""Samples of a block."""


def store_name(model: Model, index: ShardIndex, readers: Mapping[str, Reader], *, settings: str = "") -> str:
    """Name of the store of these weights and this data: 16 hex digits that change when either does."""
    digest = hashlib.sha256(f"{settings} {index.fingerprint} {model.views}".encode())
    for view in sorted(readers):
        digest.update(f"{view} {readers[view]!r}".encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def find(
    model: Model,
    index: ShardIndex,
    readers: Mapping[str, Reader],
    *,
    folder: str | Path,
    batch_size: int = 64,
) -> Store | None:
    """The store that :func:`embed` made with these arguments, or None; every process calls this."""
    name = store_name(model, index, readers, settings=f"fp32 {BLOCK} {batch_size}")
    there = distributed.broadcast_object((Path(folder) / name / "store.json").is_file())
    return open_store(Path(folder) / name) if there else None


def embed(
    model: Model,
    index: ShardIndex,
    readers: Mapping[str, Reader],
    *,
    folder: str | Path,
    device: str | torch.device = "cpu",
    batch_size: int = 64,
    threads: int | None = None,
    precision: str = "fp32",
    block_size: int = BLOCK,
    title: str = "embedding",
) -> Store:
    """The store of ``model`` on ``index`` under ``folder``: opened if it is there, made if it is not.

    Called on every process of the default group with the same arguments; ``folder`` must be one that all of
    them see. ``precision`` bf16 runs the encoders under autocast. Raises ValueError for an empty index.
    """
    if len(index) == 0:
        raise InvalidValueError("the data set has no samples; nothing to embed")
    target = Path(folder) / store_name(
        model, index, readers, settings=f"{precision} {block_size} {batch_size}"
    )
    # Looked for by one process: a store must not appear between two looks.
    if distributed.broadcast_object((target / "store.json").is_file()):
        return open_store(target)
    rank, size = distributed.rank(), distributed.world_size()
    parts = [target.with_name(f".{target.name}.part-{r}-of-{size}") for r in range(size)]
    shutil.rmtree(parts[rank], ignore_errors=True)
    blocks = -(-len(index) // block_size)
    start = min(len(index), block_size * (blocks * rank // size))
    stop = min(len(index), block_size * (blocks * (rank + 1) // size))
    items = evaluation_items(index, readers, start=start, stop=stop, threads=threads)
    model = model.eval().to(device)
    with bar(title, stop - start, show=rank == 0) as advance:
        for block, numbers in _by_block(items, range(start, stop, block_size), stop):
            write_block(parts[rank], _embed_block(model, block, numbers, batch_size, precision))
            advance(len(numbers), "")
    distributed.barrier()
    if rank == 0:
        join(parts, target, views=readers, samples=len(index))
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)
    distributed.barrier()
    return open_store(target)


def _by_block(
    items: Iterable[EvaluationItem | RejectedItem], starts: range, stop: int
) -> Iterator[tuple[list[EvaluationItem | RejectedItem], range]]:
    """The items of each block of samples, blocks without items included."""
    ahead = iter(items)
    item = next(ahead, None)
    for start in starts:
        numbers = range(start, min(start + starts.step, stop))
        held = []
        while item is not None and item.number < numbers.stop:
            held.append(item)
            item = next(ahead, None)
        yield held, numbers


def _embed_block(
    model: Model,
    found: list[EvaluationItem | RejectedItem],
    numbers: range,
    batch_size: int,
    precision: str,
) -> Block:
    key_of = {item.number: item.key for item in found}
    values: dict[str, list[Tensor]] = {}
    items: dict[str, list[tuple[str, list[int]]]] = {}
    rows: dict[tuple[str, str], list[int]] = {}
    for item in found:
        if isinstance(item, RejectedItem):
            continue
        if item.identity and (item.view, item.identity) in rows:
            rows[item.view, item.identity].append(item.number)
            continue
        occurs = rows.setdefault((item.view, item.identity), []) if item.identity else []
        occurs.append(item.number)
        items.setdefault(item.view, []).append((item.identity, occurs))
        values.setdefault(item.view, []).append(item.value)
    outputs = {view: _outputs(model, view, inputs, batch_size, precision) for view, inputs in values.items()}
    rejected = [item.view for item in found if isinstance(item, RejectedItem)]
    return Block([(number, key_of.get(number, "")) for number in numbers], items, outputs, rejected)


@torch.inference_mode()
def _outputs(
    model: Model, view: str, inputs: list[Tensor], batch_size: int, precision: str
) -> dict[str, np.ndarray]:
    device = next((value.device for value in model.state_dict().values()), torch.device("cpu"))
    branch = model.branch(view)
    parts: dict[str, list[np.ndarray]] = {"z": [], "h": []}
    for start in range(0, len(inputs), batch_size):
        batch = torch.stack(inputs[start : start + batch_size]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            found = branch(batch)
        parts["z"].append(found.z.float().cpu().numpy())
        parts["h"].append(found.h.float().cpu().numpy())
    return {output: np.concatenate(rows) for output, rows in parts.items()}
