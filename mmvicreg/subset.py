"""The samples of an index that have certain members: to see more of what is rare.

    rare = having(index, ("effect.ogg",))
    mixture = Mixture([Part(index, 0.75), Part(rare, 0.25)], seed=0, global_batch=256)

gives a quarter of every 10,000 slots to samples with a sound effect, beside those that come by themselves.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

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
