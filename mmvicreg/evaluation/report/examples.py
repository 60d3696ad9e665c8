"""Queries of a split with what they found, as a person sees it: images, captions or recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmvicreg.errors import UserError
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.ranks import Ranks
from mmvicreg.evaluation.report.content import Content, SampleContent
from mmvicreg.evaluation.report.figures import Example, Result
from mmvicreg.evaluation.report.hubs import Hub, largest, occurrences
from mmvicreg.evaluation.store import EmbeddedItems, Store
from mmvicreg.shards.index import ShardIndex, open_index
from mmvicreg.stream.reader import Reader


@dataclass(frozen=True)
class Direction:
    """Queries of one branch looking for items of another."""

    ends: tuple[str, str]
    queries: EmbeddedItems
    items: EmbeddedItems
    positives: Positives
    ranks: Ranks


@dataclass(frozen=True)
class _Found:
    """One query's best items, by row."""

    query: int
    items: list[int]
    right: list[bool]
    cosine: list[float]
    rank: float


def examples_of(
    direction: Direction, store: Store, readers: Mapping[str, Reader], index: ShardIndex, *, count: int
) -> list[Example]:
    """``count`` queries spread evenly over the split, whatever their rank: failures are shown too."""
    return _draw(_best(direction, count=count), direction.ends, store, readers, index)


def hubs_of(
    direction: Direction, store: Store, readers: Mapping[str, Reader], index: ShardIndex, *, k: int = 10
) -> list[Hub]:
    """The items that are among the first ``k`` of the most queries, where they are hubs."""
    counts = occurrences(direction.queries.z, direction.items.z, k=k)
    show = Content(store, readers, index)
    return [
        Hub(show(direction.ends[1], item), int(counts[item]), float(counts.mean()))
        for item in largest(counts)
    ]


def training_samples(shards: str, readers: Mapping[str, Reader], *, count: int) -> list[Example]:
    """The first items of ``count`` training samples, evenly spread: images and texts that belong together.

    An empty list where the shards are not there any more.
    """
    try:
        index = open_index(shards)
    except UserError:
        return []
    chosen = np.linspace(0, len(index) - 1, count).round().astype(int)
    return samples_of(SampleContent(readers, index), chosen)


def samples_of(content: SampleContent, numbers: np.ndarray) -> list[Example]:
    """The samples of these numbers, each once: its first item, and what belongs to it."""
    found = []
    for number in np.unique(numbers):
        shown = content.items(int(number))
        if shown:
            found.append(Example(shown[0], tuple(Result(part, False, 0.0) for part in shown[1:]), 0.0))
    return found


def _best(direction: Direction, *, count: int, best: int = 5) -> list[_Found]:
    queries, items, positives = direction.queries, direction.items, direction.positives
    rank_Q = direction.ranks.rank()
    matched = np.flatnonzero(positives.counts)  # the queries that rank_Q is about
    chosen = np.unique(np.linspace(0, len(matched) - 1, count).round().astype(int))
    unit = torch.nn.functional.normalize
    queries_QD = unit(torch.from_numpy(queries.z[matched[chosen]]), dim=1)
    blocks = [
        unit(torch.from_numpy(items.z[a : a + 4096].copy()), dim=1) for a in range(0, len(items.z), 4096)
    ]
    cosine_QM = torch.cat([queries_QD @ block.T for block in blocks], dim=1)
    found = []
    for place, row, cosine_M in zip(chosen, matched[chosen], cosine_QM, strict=True):
        values, items_best = cosine_M.topk(min(best, len(cosine_M)))
        matching = set(positives.indices[positives.offsets[row] : positives.offsets[row + 1]].tolist())
        right = [item in matching for item in items_best.tolist()]
        found.append(_Found(int(row), items_best.tolist(), right, values.tolist(), float(rank_Q[place])))
    return found


def _draw(
    found: Sequence[_Found],
    pair: tuple[str, str],
    store: Store,
    readers: Mapping[str, Reader],
    index: ShardIndex,
) -> list[Example]:
    """The queries and their best items, as a person sees them."""
    show = Content(store, readers, index)
    return [
        Example(
            show(pair[0], one.query),
            tuple(
                Result(show(pair[1], item), right, cosine)
                for item, right, cosine in zip(one.items, one.right, one.cosine, strict=True)
            ),
            one.rank,
        )
        for one in found
    ]
