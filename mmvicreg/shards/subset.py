"""Part of the samples of an index: those that have certain members, or those of given numbers.

    rare = with_members(index, ("effect.ogg",))
    mixture = Mixture([Part(index, 0.75), Part(rare, 0.25)], seed=0, global_batch=256)

gives a quarter of every 10,000 slots to samples with a sound effect, besides those that come by themselves.
The option ``stream.minimum_fraction`` finds such weights itself (:func:`mmvicreg.plan.mixture.raise_fractions`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.shards.index import ShardIndex
from mmvicreg.shards.index_file import read_table


def with_members(index: ShardIndex, members: Collection[str]) -> ShardIndex:
    """The index of those samples that have every one of ``members``; only index files are read.

    Raises ValueError if no sample has them.
    """
    every = [holds(index, (member,)) for member in members]
    return keep(index, np.logical_and.reduce(every), wanted=", ".join(sorted(members)))


def holds(index: ShardIndex, members: Collection[str]) -> np.ndarray:
    """Bool (N,): which samples have any of ``members``, as a reader that takes the first of them would find."""
    wanted = set(members)
    found = []
    for shard in index.shards:
        table = read_table(shard.index_file, shard.entry)
        excluded = set(shard.excluded)
        kept = (number for number in range(shard.entry.count) if number not in excluded)
        found.append(np.fromiter((not wanted.isdisjoint(table.members(number)) for number in kept), bool))
    return np.concatenate(found)


def keep(index: ShardIndex, kept: np.ndarray, *, wanted: str) -> ShardIndex:
    """The index of the samples where ``kept``, bool (N,), is True; ValueError, naming ``wanted``, if none is."""
    if not kept.any():
        raise InvalidValueError(
            f"no sample of {len(index)} has {wanted}; members are {', '.join(index.suffixes)}"
        )
    shards = []
    for shard, mask in zip(index.shards, np.split(kept, index.starts[1:-1]), strict=True):
        numbers = np.setdiff1d(np.arange(shard.entry.count), shard.excluded)
        left_out = {*shard.excluded, *numbers[~mask].tolist()}
        shards.append(replace(shard, excluded=tuple(sorted(left_out))))
    return ShardIndex(tuple(shards))


def only(index: ShardIndex, numbers: Collection[int]) -> ShardIndex:
    """The index of the samples of these numbers, in the order they have in ``index``.

    Raises ValueError for no numbers and for one that is not there.
    """
    wanted = np.unique(np.fromiter(numbers, np.int64, len(numbers)))
    if not len(wanted) or wanted[0] < 0 or wanted[-1] >= len(index):
        found = f"{wanted[0]} to {wanted[-1]}" if len(wanted) else "none"
        raise InvalidValueError(f"sample numbers {found}; the index has samples 0 to {len(index) - 1}")
    mask = np.zeros(len(index), bool)
    mask[wanted] = True
    return keep(index, mask, wanted="these numbers")
