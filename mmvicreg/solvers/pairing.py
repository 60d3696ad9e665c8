"""Embedded data to moments: which rows of two branches match, with which weight, block after block.

A caption that several pictures share is one row that matches several; several captions or crops of a sample are
several rows that match the same ones. M rows of a branch, n rows of a block, E and F widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError, UnknownNameError
from mmvicreg.evaluation.positives import Positives
from mmvicreg.solvers.feature_maps import blocks
from mmvicreg.solvers.moments import Moments, MomentSums, Pair

BLOCK = 1024
"""Rows whose features are held at a time."""
ORIGIN_ROWS = 256
"""Rows whose mean is the origin of the sums."""


@dataclass(frozen=True)
class PairedRows:
    """Rows of every branch and which of them match.

    ``rows`` {branch: (M, E) float32, possibly memory-mapped}; ``samples`` {branch: per row the numbers of its samples}.
    """

    rows: Mapping[str, np.ndarray]
    samples: Mapping[str, Sequence[Sequence[int]]]

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
    concept (caption) once, however many pictures it has"""
    unpaired: bool = False
    """count rows without a match in the moments of their own branch too"""
    within: bool = False
    """count the scatter within concepts, which ``within`` of a whitening needs"""


@dataclass(frozen=True)
class Space:
    """Features of one branch that have moments: ``features`` maps (n, E) to (n, F)."""

    branch: str
    features: nn.Sequential


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
    origins = {
        name: _features(space, data.branch(space.branch)[:ORIGIN_ROWS], device, name).double().mean(0)
        for name, space in spaces.items()
    }
    sums = MomentSums(origins)
    matching = {pair: data.positives(spaces[pair[0]].branch, spaces[pair[1]].branch) for pair in chosen}
    weights = {pair: _pair_weights(found, config.concept_power) for pair, found in matching.items()}
    for name, space in spaces.items():
        _count_space(
            sums, name, space, data, _row_weights(name, matching, weights, data, spaces, config), device
        )
    for pair in chosen:
        sums.expect_pairs(*pair)
        _count_pair(sums, pair, spaces, data, matching[pair], weights[pair], device)
    if config.within:
        for name, groups in _groups(matching, spaces).items():
            _count_within(sums, name, spaces[name], data, groups, device)
    return sums.finish()


def _all_pairs(spaces: Mapping[str, Space]) -> tuple[Pair, ...]:
    return tuple((a, b) for a, b in combinations(spaces, 2) if spaces[a].branch != spaces[b].branch)


@torch.no_grad()
def _features(space: Space, rows: np.ndarray, device: torch.device, name: str) -> Tensor:
    if not len(rows):
        raise InvalidValueError(f"{name!r} has no rows: nothing to solve; are its members in these shards?")
    return space.features(torch.from_numpy(np.array(rows, dtype=np.float32)).to(device))


def _own_range(count: int) -> range:
    rank, size = distributed.rank(), distributed.world_size()
    return range(count * rank // size, count * (rank + 1) // size)


def _own_blocks(count: int) -> list[range]:
    own = _own_range(count)
    return [range(own.start + part.start, own.start + part.stop) for part in blocks(len(own), BLOCK)]


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
    data: PairedRows,
    spaces: Mapping[str, Space],
    config: PairingConfig,
) -> np.ndarray:
    """Weight of each row in its own moments: the mean of what its pairs weigh over the pairs of spaces it is in."""
    total = np.zeros(len(data.branch(spaces[name].branch)))
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


def _count_space(
    sums: MomentSums,
    name: str,
    space: Space,
    data: PairedRows,
    weights_M: np.ndarray,
    device: torch.device,
) -> None:
    rows = data.branch(space.branch)
    for part in _own_blocks(len(rows)):
        block = slice(part.start, part.stop)
        weights = torch.from_numpy(weights_M[block]).to(device)
        sums.add_rows(name, _features(space, rows[block], device, name), weights)


def _count_pair(
    sums: MomentSums,
    pair: Pair,
    spaces: Mapping[str, Space],
    data: PairedRows,
    found: Positives,
    weights_P: np.ndarray,
    device: torch.device,
) -> None:
    query_n, item_n = found.pairs()
    first, second = spaces[pair[0]], spaces[pair[1]]
    x_rows, y_rows = data.branch(first.branch), data.branch(second.branch)
    for part in _own_blocks(len(query_n)):
        block = slice(part.start, part.stop)
        # A row in several pairs of the block has its features computed once.
        queries, query_at = np.unique(query_n[block], return_inverse=True)
        items, item_at = np.unique(item_n[block], return_inverse=True)
        x = _features(first, x_rows[queries], device, pair[0])[torch.from_numpy(query_at).to(device)]
        y = _features(second, y_rows[items], device, pair[1])[torch.from_numpy(item_at).to(device)]
        sums.add_pairs(*pair, x, y, torch.from_numpy(weights_P[block]).to(device))


def _groups(matching: Mapping[Pair, Positives], spaces: Mapping[str, Space]) -> dict[str, list[np.ndarray]]:
    """Of each space, the rows that match one row of another branch, where there are two or more."""
    groups: dict[str, list[np.ndarray]] = {name: [] for name in spaces}
    for (first, second), found in matching.items():
        for name, each in ((second, found), (first, found.transpose())):
            split = np.split(each.indices, each.offsets[1:-1])
            groups[name] += [rows for rows in split if len(rows) > 1]
    return {name: found for name, found in groups.items() if found}


def _count_within(
    sums: MomentSums,
    name: str,
    space: Space,
    data: PairedRows,
    groups: Sequence[np.ndarray],
    device: torch.device,
) -> None:
    rows = data.branch(space.branch)
    width = len(sums.origins[name])
    own = sums.sums[name]
    own.setdefault("within", torch.zeros((width, width), dtype=torch.float64, device=device))
    own.setdefault("within_weight", torch.zeros((), dtype=torch.float64, device=device))
    held: list[np.ndarray] = []
    for number in _own_range(len(groups)):
        held.append(groups[number])
        if sum(map(len, held)) >= BLOCK:
            _add_groups(sums, name, space, rows, held, device)
            held = []
    if held:
        _add_groups(sums, name, space, rows, held, device)


def _add_groups(
    sums: MomentSums,
    name: str,
    space: Space,
    rows: np.ndarray,
    groups: Sequence[np.ndarray],
    device: torch.device,
) -> None:
    chosen = np.concatenate(groups)
    numbers = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    features = _features(space, rows[chosen], device, name)
    sums.add_groups(name, features, torch.from_numpy(numbers).to(device))
