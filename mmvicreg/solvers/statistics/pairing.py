"""Embedded data to moments: which rows of two branches match, with which weight, block after block.

A caption that several images share is one row that matches several; several captions or crops of a sample are
several rows that match the same ones. M rows of a branch, n rows of a block, E and F widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError, UnknownNameError
from mmvicreg.evaluation.positives import Positives
from mmvicreg.solvers.statistics.feature_maps import blocks
from mmvicreg.solvers.statistics.moments import Moments, MomentSums, Pair
from mmvicreg.solvers.statistics.space_features import Space, SpaceFeatures

ORIGIN_ROWS = 256
"""Rows whose mean is the origin of the sums."""
COUNTED = 256
"""Rows that are multiplied together: enough for the speed of a matrix product, few enough beside the moments."""


@dataclass(frozen=True)
class PairedRows:
    """Rows of every branch and which of them match.

    ``rows`` {branch: (M, E) float32, possibly memory-mapped}; ``samples`` {branch: per row the numbers of its samples}.
    """

    rows: Mapping[str, np.ndarray]
    samples: Mapping[str, Sequence[Sequence[int]]]

    def __post_init__(self) -> None:
        for name, rows in self.rows.items():
            if rows.ndim != 2 or rows.dtype.kind not in "fiu":
                raise InvalidValueError(
                    f"branch {name!r} has rows of the type {rows.dtype.str} and the shape {rows.shape}: expected a "
                    "matrix of numbers, a row an item; embed its items first"
                )
            if len(rows) != len(self.samples.get(name, ())):
                raise InvalidValueError(
                    f"branch {name!r} has {len(rows)} rows and the samples of {len(self.samples.get(name, ()))}: every "
                    "row needs the numbers of its samples"
                )

    def branch(self, name: str) -> np.ndarray:
        """Rows of one branch; KeyError with the branches there are."""
        if name not in self.rows:
            raise UnknownNameError(f"no branch {name!r} among these rows; there are {', '.join(self.rows)}")
        return self.rows[name]

    def positives(self, first: str, second: str) -> Positives:
        """Which rows of ``second`` match each row of ``first``: those that share a sample."""
        return Positives.from_identities(self.samples[first], self.samples[second])

    def take(self, samples: np.ndarray) -> PairedRows:
        """The rows of these samples only; a row that occurs in others too keeps its samples among these."""
        wanted = set(samples.tolist())
        rows, numbers = {}, {}
        for name, found in self.samples.items():
            cut = [[number for number in each if number in wanted] for each in found]
            chosen = np.flatnonzero([bool(each) for each in cut])
            rows[name] = self.rows[name][chosen]
            numbers[name] = [cut[row] for row in chosen]
        return PairedRows(rows, numbers)


@dataclass(frozen=True)
class PairingConfig:
    """What of the data enters the moments, and with which weight."""

    concept_power: float = 0.0
    """weight of a pair: 1 / (matches of whichever side has more) to this power; 0 counts every pair once, 1 every
    concept (caption) once, however many images it has"""
    unpaired: bool = False
    """count rows without a match in the moments of their own branch too"""
    within: bool = False
    """count the scatter within concepts, which ``within`` of a whitening needs"""


def count_moments(
    data: PairedRows,
    spaces: Mapping[str, Space],
    *,
    pairs: Sequence[Pair] = (),
    config: PairingConfig | None = None,
    device: torch.device | None = None,
) -> Moments:
    """One pass over the rows: each process takes its part of every branch, and all get the same moments.

    ``spaces`` {name: space}, ``pairs`` of space names (all pairs of different branches where empty). Raises
    ValueError for features that are not finite, and for a pair without a match.
    """
    config = config or PairingConfig()
    device = device or torch.device("cpu")
    chosen = tuple(pairs) or _all_pairs(spaces)
    for pair in chosen:
        for name in pair:
            if name not in spaces:
                raise UnknownNameError(f"pairs name {name!r}; there are {', '.join(spaces)}")
    features = {
        name: SpaceFeatures(name, space, data.branch(space.branch), device) for name, space in spaces.items()
    }
    sums = MomentSums({name: found.origin(ORIGIN_ROWS) for name, found in features.items()})
    matching = {pair: data.positives(spaces[pair[0]].branch, spaces[pair[1]].branch) for pair in chosen}
    weights = {pair: _pair_weights(found, config.concept_power) for pair, found in matching.items()}
    for name, found in features.items():
        _count_space(sums, name, found, _row_weights(name, matching, weights, len(found.rows), config))
    for pair in chosen:
        sums.expect_pairs(*pair)
        _count_pair(sums, pair, features, matching[pair], weights[pair])
    if config.within:
        for name, groups in _groups(matching, spaces).items():
            _count_within(sums, name, features[name], groups)
    return sums.finish()


def _all_pairs(spaces: Mapping[str, Space]) -> tuple[Pair, ...]:
    return tuple((a, b) for a, b in combinations(spaces, 2) if spaces[a].branch != spaces[b].branch)


def _own_range(count: int) -> range:
    rank, size = distributed.rank(), distributed.world_size()
    return range(count * rank // size, count * (rank + 1) // size)


def _own_blocks(count: int) -> list[range]:
    own = _own_range(count)
    return [range(own.start + part.start, own.start + part.stop) for part in blocks(len(own), COUNTED)]


def _pair_weights(found: Positives, power: float) -> np.ndarray:
    """Weight of each match, in the order of ``found.pairs()``."""
    query_n, item_n = found.pairs()
    if not len(query_n) or not power:
        return np.ones(len(query_n))
    queries, items = np.bincount(query_n), np.bincount(item_n)
    return np.maximum(queries[query_n], items[item_n]).astype(np.float64) ** -power


def _row_weights(
    name: str,
    matching: Mapping[Pair, Positives],
    weights: Mapping[Pair, np.ndarray],
    count: int,
    config: PairingConfig,
) -> np.ndarray:
    """Weight of each row in its own moments: the mean of what its pairs weigh over the pairs of spaces it is in."""
    total = np.zeros(count)
    seen = 0
    for pair, found in matching.items():
        if name in pair:
            rows = found.pairs()[pair.index(name)]
            total += np.bincount(rows, weights[pair], minlength=len(total))
            seen += 1
    if not seen:
        return np.ones(len(total))
    total /= seen
    if config.unpaired:
        total[total == 0] = 1.0
    return total


def _count_space(sums: MomentSums, name: str, features: SpaceFeatures, weights_M: np.ndarray) -> None:
    for part in _own_blocks(len(features.rows)):
        weights = torch.from_numpy(weights_M[part.start : part.stop]).to(features.device)
        sums.add_rows(name, features.take(np.arange(part.start, part.stop)), weights)


def _count_pair(
    sums: MomentSums,
    pair: Pair,
    features: Mapping[str, SpaceFeatures],
    found: Positives,
    weights_P: np.ndarray,
) -> None:
    query_n, item_n = found.pairs()
    first, second = features[pair[0]], features[pair[1]]
    for part in _own_blocks(len(query_n)):
        block = slice(part.start, part.stop)
        weights = torch.from_numpy(weights_P[block]).to(first.device)
        sums.add_pairs(*pair, first.take(query_n[block]), second.take(item_n[block]), weights)


def _groups(matching: Mapping[Pair, Positives], spaces: Mapping[str, Space]) -> dict[str, list[np.ndarray]]:
    """Of each space, the rows that match one row of another branch, where there are two or more."""
    groups: dict[str, list[np.ndarray]] = {name: [] for name in spaces}
    for (first, second), found in matching.items():
        for name, each in ((second, found), (first, found.transpose())):
            split = np.split(each.indices, each.offsets[1:-1])
            groups[name] += [rows for rows in split if len(rows) > 1]
    return {name: found for name, found in groups.items() if found}


def _count_within(sums: MomentSums, name: str, features: SpaceFeatures, groups: Sequence[np.ndarray]) -> None:
    own, zero = sums.sums[name], sums.origins[name].new_zeros
    own.setdefault("within", zero((features.width, features.width)))
    own.setdefault("within_weight", zero(()))
    held: list[np.ndarray] = []
    for number in _own_range(len(groups)):
        held.append(groups[number])
        if sum(map(len, held)) >= COUNTED:
            _add_groups(sums, name, features, held)
            held = []
    if held:
        _add_groups(sums, name, features, held)


def _add_groups(sums: MomentSums, name: str, features: SpaceFeatures, groups: Sequence[np.ndarray]) -> None:
    numbers = torch.from_numpy(np.repeat(np.arange(len(groups)), [len(group) for group in groups]))
    sums.add_groups(name, features.take(np.concatenate(groups)), numbers.to(features.device))
