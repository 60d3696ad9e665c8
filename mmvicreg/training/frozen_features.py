"""Representations of a frozen encoder, computed once and read at every step.

A frozen encoder gives the same representation for the same augmented view of a sample. ``draws`` augmented views
(crops, captions) of every sample are encoded once into a memory-mapped file; a step then draws one of them. The files
appear whole: two runs that encode the same at once do not write into each other's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.branches.model import Branch
from mmvicreg.branches.padding import rows_at_once, without_padding
from mmvicreg.evaluation.work_folder import move_folder, work_folder
from mmvicreg.files import write_text
from mmvicreg.modalities.modality import Modality
from mmvicreg.randomness import generator
from mmvicreg.runs.config import to_json
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

DONE = "done.json"
"""in a folder of representations that is whole"""
Views = tuple[list[tuple[int, int]], list[Tensor | None]]
"""the (sample, draw) of each augmented view of a batch, and its value; None for absent ones"""


@dataclass(frozen=True)
class FeatureReader(Reader):
    """Reads one of the stored representations of a sample; nothing is read from the shard."""

    folder: str
    width: int

    @property
    def members(self) -> tuple[str, ...]:
        return ()

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        draw = int(generator.integers(self._present.shape[1]))
        if not self._present[sample.number, draw]:
            return None
        return Item(torch.from_numpy(np.array(self._features[sample.number, draw])))

    def items(self, sample: Sample) -> list[Item]:
        draws = np.flatnonzero(self._present[sample.number])
        return [Item(torch.from_numpy(np.array(self._features[sample.number, draw]))) for draw in draws]

    @cached_property
    def _features(self) -> np.ndarray:
        return np.load(Path(self.folder) / "features.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def _present(self) -> np.ndarray:
        return np.load(Path(self.folder) / "present.npy", mmap_mode="r", allow_pickle=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "width": self.width}


def precompute(
    modality: Modality,
    branch: Branch,
    index: ShardIndex,
    *,
    name: str,
    draws: int,
    seed: int,
    folder: Path,
    device: torch.device,
    threads: int,
    progress: Callable[[int], None],
) -> FeatureReader:
    """Encode ``draws`` augmented views of every sample of ``index`` into ``folder``, or find them there.

    Each process encodes a contiguous range of samples; every process calls this. ``progress`` is called with the
    number of augmented views done.
    """
    identity = json.dumps([to_json(modality), _digest(branch), index.cache_key, draws, seed], sort_keys=True)
    home = folder / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    width = _width(branch, modality.reader(), device)
    if not distributed.broadcast_object((home / DONE).is_file()):
        rank, world = distributed.rank(), distributed.world_size()
        work: Path = distributed.broadcast_object(work_folder(home) if rank == 0 else None)
        if rank == 0:
            _allocate(work, samples=len(index), draws=draws, width=width)
        distributed.barrier()
        own = range(rank * len(index) // world, (rank + 1) * len(index) // world)
        batch = rows_at_once(device)
        places = [(number, draw) for number in own for draw in range(draws)]
        chosen = [places[start : start + batch] for start in range(0, len(places), batch)]
        views = _augmented_views(modality.reader(), index, chosen, seed=seed, threads=threads)
        _encode(branch, views, work, device=device, progress=progress)
        distributed.barrier()
        if rank == 0:
            write_text(work / DONE, identity)
            move_folder(work, home)
        distributed.barrier()
    return FeatureReader(str(home), width)


def _digest(branch: Branch) -> str:
    """Of the encoder's weights: a file of weights may have another content under the same name."""
    digest = hashlib.sha256()
    for name, value in sorted(branch.encoder.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _encode(
    branch: Branch,
    views: Iterator[Views],
    home: Path,
    *,
    device: torch.device,
    progress: Callable[[int], None],
) -> None:
    """Write the representations of ``views`` to their places in the files of ``home``."""
    features = np.load(home / "features.npy", mmap_mode="r+", allow_pickle=False)
    present = np.load(home / "present.npy", mmap_mode="r+", allow_pickle=False)
    for places, values in views:
        found = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
        if found:
            x = without_padding(branch, torch.stack([value for _, value in found])).to(device)
            for (place, _), vector in zip(found, branch.represent(x).float().cpu().numpy(), strict=True):
                features[place] = vector
                present[place] = True
        progress(len(places))
    features.flush()
    present.flush()


def _width(branch: Branch, reader: Reader, device: torch.device) -> int:
    with torch.no_grad():
        return branch.represent(torch.zeros((2, *reader.shape), dtype=reader.dtype, device=device)).shape[1]


def _allocate(home: Path, *, samples: int, draws: int, width: int) -> None:
    home.mkdir(parents=True, exist_ok=True)
    create = np.lib.format.open_memmap
    create(home / "features.npy", mode="w+", dtype=np.float32, shape=(samples, draws, width)).flush()
    create(home / "present.npy", mode="w+", dtype=bool, shape=(samples, draws)).flush()


def _augmented_views(
    reader: Reader, index: ShardIndex, batches: list[list[tuple[int, int]]], *, seed: int, threads: int
) -> Iterator[Views]:
    """The augmented views of ``batches`` of (sample, draw): the same on any number of processes and threads."""
    fetch = Fetcher(index)

    def read(place: tuple[int, int]) -> Tensor | None:
        number, draw = place
        sample = fetch(*index.place(number), reader.members)
        try:
            item = reader.read(sample, generator(seed, draw, number, "features"))
        except BadSampleError:
            return None  # absent, like a sample without this modality
        return None if item is None else item.value

    with ThreadPoolExecutor(threads) as pool:
        for batch in batches:
            yield batch, list(pool.map(read, batch))
