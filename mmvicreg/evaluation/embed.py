"""Embed a data set once: every item of every sample, on any number of processes, into a store.

The samples are cut into blocks of fixed size. Each process takes a contiguous range of blocks, and a batch never
crosses the end of a block, so what enters a batch, and with it every bit of the result, is the same for any number of
processes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.branches.model import Model
from mmvicreg.branches.padding import batches_by_length, rows_at_once
from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.store import EmbeddedBlock, Store, check_names, join, open_store, write_block
from mmvicreg.evaluation.transfer.prompts import image_branches
from mmvicreg.evaluation.work_folder import keep_parts, resume_part, work_folder
from mmvicreg.progress import bar
from mmvicreg.runs.run import CHECKPOINTS, Run
from mmvicreg.shards.index import ShardIndex
from mmvicreg.shards.locations import cache_folder
from mmvicreg.stream.evaluation_items import EvaluationItem, RejectedItem, evaluation_items
from mmvicreg.stream.reader import Item, Reader, Sample

BLOCK = 256
"""Samples of a block."""


def embeddings_folder(run: Run) -> Path:
    """Where the embeddings of a run are kept: in its run directory, or in the cache folder where that cannot be written
    or there is none (exports and published models)."""
    own = run.folder / "embeddings"
    kept_with_run = (run.folder / CHECKPOINTS).is_dir() and os.access(run.folder, os.W_OK)
    return own if kept_with_run else Path(cache_folder()) / "embeddings"


def embed_split(
    run: Run,
    index: ShardIndex,
    *branches: str,
    device: str = "",
    threads: int | None = None,
    title: str = "embed",
    group_images: bool = False,
) -> Store:
    """The items of ``index`` embedded by these branches of a run (by all where none is named), computed once and kept.

    Where a store of all branches is there already, that is opened instead. ``group_images``: pictures of identical
    bytes are one item. Raises KeyError for a branch that is not there, ValueError for an empty index.
    """
    folder = embeddings_folder(run)
    if branches and set(branches) != set(run.modalities):
        model, readers = _view_per_branch(run, tuple(run.modalities), group_images)
        found = find_store(model, index, readers, folder=folder)
        if found is not None:
            return found
    model, readers = _view_per_branch(run, branches or tuple(run.modalities), group_images)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return embed_samples(model, index, readers, folder=folder, device=chosen, threads=threads, title=title)


def _view_per_branch(
    run: Run, branches: Sequence[str], group_images: bool
) -> tuple[Model, dict[str, Reader]]:
    model = Model(
        {name: run.model.branch_named(name) for name in branches}, {name: name for name in branches}
    )
    readers = {name: run.modalities[name].reader() for name in branches}
    if group_images:
        readers |= {name: GroupedReader(readers[name]) for name in set(branches) & set(image_branches(run))}
    return model, readers


class GroupedReader(Reader):
    """A reader whose items are told apart by the bytes they are read from: identical files are one item.

    For data with a sample for each caption, which hold every picture several times.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __repr__(self) -> str:
        return f"GroupedReader({self.reader!r})"

    @property
    def members(self) -> tuple[str, ...]:
        return self.reader.members

    @property
    def shape(self) -> tuple[int, ...]:
        return self.reader.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.reader.dtype

    def items(self, sample: Sample) -> list[Item]:
        members = {name: data for name, data in sample.members.items() if name in self.members}
        digest = hashlib.sha256(b"\0".join(members[name] for name in sorted(members))).hexdigest()
        return [
            Item(item.value, f"sha256:{digest}/{place}", item.recovered)
            for place, item in enumerate(self.reader.items(sample))
        ]


def store_name(model: Model, index: ShardIndex, readers: Mapping[str, Reader], *, settings: str = "") -> str:
    """Name of the store of these weights and this data: 16 hex digits that change when either does."""
    digest = hashlib.sha256(f"{settings} {index.cache_key} {model.views}".encode())
    for view in sorted(readers):
        digest.update(f"{view} {readers[view]!r}".encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def find_store(
    model: Model,
    index: ShardIndex,
    readers: Mapping[str, Reader],
    *,
    folder: str | Path,
    batch_size: int = 64,
) -> Store | None:
    """The store that :func:`embed_samples` made with these arguments, or None; every process calls this."""
    name = store_name(model, index, readers, settings=f"fp32 {BLOCK} {batch_size}")
    there = distributed.broadcast_object((Path(folder) / name / "store.json").is_file())
    return open_store(Path(folder) / name) if there else None


def embed_samples(
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
    them see; the finished blocks of a killed process are kept. ``precision`` bf16 runs the encoders under autocast.
    Raises ValueError for an empty index.
    """
    if len(index) == 0:
        raise InvalidValueError("the data set has no samples; nothing to embed")
    check_names(readers)
    target = Path(folder) / store_name(
        model, index, readers, settings=f"{precision} {block_size} {batch_size}"
    )
    # One process decides for all: a store may appear between the checks of two.
    if distributed.broadcast_object((target / "store.json").is_file()):
        return open_store(target)
    rank, size = distributed.rank(), distributed.world_size()
    work: Path = distributed.broadcast_object(work_folder(target, resumed=True) if rank == 0 else None)
    parts = [work / f"part-{r}-of-{size}" for r in range(size)]
    if rank == 0:
        keep_parts(work, parts)
    distributed.barrier()
    first, stop = _own_range(len(index), block_size)
    start = min(stop, first + block_size * resume_part(parts[rank]))
    items = evaluation_items(index, readers, start=start, stop=stop, threads=threads)
    model = model.eval().to(device)
    with bar(title, stop - first, show=rank == 0) as advance:
        if start > first:
            advance(start - first, "kept")
        for block, numbers in _by_block(items, range(start, stop, block_size), stop):
            write_block(parts[rank], _embed_block(model, block, numbers, batch_size, precision))
            advance(len(numbers), "")
    distributed.barrier()
    if rank == 0:
        join(parts, target, views=readers, samples=len(index))
        shutil.rmtree(work, ignore_errors=True)
    distributed.barrier()
    return open_store(target)


def _own_range(samples: int, block_size: int) -> tuple[int, int]:
    """The first sample of this process, and the one after its last: whole blocks."""
    blocks, rank, size = -(-samples // block_size), distributed.rank(), distributed.world_size()
    first, after = (block_size * (blocks * each // size) for each in (rank, rank + 1))
    return min(samples, first), min(samples, after)


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
) -> EmbeddedBlock:
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
    return EmbeddedBlock([(number, key_of.get(number, "")) for number in numbers], items, outputs, rejected)


@torch.inference_mode()
def _outputs(
    model: Model, view: str, inputs: list[Tensor], batch_size: int, precision: str
) -> dict[str, np.ndarray]:
    device = next((value.device for value in model.state_dict().values()), torch.device("cpu"))
    branch = model.branch(view)
    parts: dict[str, list[np.ndarray]] = {"z": [], "h": []}
    order: list[int] = []
    for places, batch in batches_by_length(branch, inputs, rows_at_once(device, batch_size)):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            found = branch(batch.to(device))
        order += places
        parts["z"].append(found.z.float().cpu().numpy())
        parts["h"].append(found.h.float().cpu().numpy())
    back = np.argsort(order)
    return {output: np.concatenate(rows)[back] for output, rows in parts.items()}
