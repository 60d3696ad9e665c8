"""Some of the samples of an index: those that have certain members, or those of given numbers.

    rare = having(index, ("effect.ogg",))
    mixture = Mixture([Part(index, 0.75), Part(rare, 0.25)], seed=0, global_batch=256)

gives a quarter of every 10,000 slots to samples with a sound effect, beside those that come by themselves.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from mmvicreg.shards import Index, Shard
from mmvicreg.sidecar import read_block


def having(index: Index, members: Collection[str]) -> Index:
    """The index of those samples that have every one of ``members``; only sidecars are read.

    Raises ValueError where no sample has them.
    """
    kept = Index(tuple(_having(shard, frozenset(members)) for shard in index.shards))
    if not len(kept):
        raise ValueError(
            f"no sample of {len(index)} has {', '.join(sorted(members))}; members are {', '.join(index.suffixes)}"
        )
    return kept


def _having(shard: Shard, members: frozenset[str]) -> Shard:
    block = read_block(shard.sidecar, shard.entry)
    lacking = {row for row in range(shard.entry.count) if not members <= set(block.members(row))}
    return replace(shard, excluded=tuple(sorted(lacking | set(shard.excluded))))


def only(index: Index, numbers: Collection[int]) -> Index:
    """The index of the samples of these numbers, in the order they have in ``index``.

    Raises ValueError for no numbers, or one that is not there.
    """
    wanted = np.unique(np.fromiter(numbers, np.int64, len(numbers)))
    if not len(wanted) or wanted[0] < 0 or wanted[-1] >= len(index):
        found = f"{wanted[0]} to {wanted[-1]}" if len(wanted) else "none"
        raise ValueError(f"sample numbers {found}; the index has samples 0 to {len(index) - 1}")
    bounds = np.searchsorted(wanted, index.starts)
    rows = [wanted[bounds[s] : bounds[s + 1]] - index.starts[s] for s in range(len(index.shards))]
    return Index(tuple(_only(shard, kept) for shard, kept in zip(index.shards, rows, strict=True)))


def _only(shard: Shard, rows: np.ndarray) -> Shard:
    there = np.setdiff1d(np.arange(shard.entry.count), np.array(shard.excluded, np.int64))
    left_out = np.setdiff1d(np.arange(shard.entry.count), there[rows])
    return replace(shard, excluded=tuple(left_out.tolist()))
