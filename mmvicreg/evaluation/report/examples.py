"""Queries of a split with what they found, as a person sees it: pictures, or captions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmvicreg.errors import UserError
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.ranks import Ranks
from mmvicreg.evaluation.report import figures as pictures
from mmvicreg.evaluation.report.hubs import Hub, largest, occurrences
from mmvicreg.evaluation.store import EmbeddedItems, Store
from mmvicreg.modalities.decoding import pixels
from mmvicreg.shards.index import ShardIndex, open_index
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import BadSampleError, Reader, Sample


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
) -> list[pictures.Example]:
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


def training_samples(shards: str, readers: Mapping[str, Reader], *, count: int) -> list[pictures.Example]:
    """The first items of ``count`` training samples, evenly spread: pictures and texts that belong together.

    An empty list where the shards are not there any more.
    """
    try:
        index = open_index(shards)
    except UserError:
        return []
    fetch, found = Fetcher(index), []
    for number in np.unique(np.linspace(0, len(index) - 1, count).round().astype(int)):
        members = tuple(member for reader in readers.values() for member in reader.members)
        sample = fetch(*index.place(int(number)), members)
        shown = [part for reader in readers.values() if (part := _shown(sample, reader)) is not None]
        if shown:
            found.append(
                pictures.Example(
                    shown[0], tuple(pictures.Result(part, False, 0.0) for part in shown[1:]), 0.0
                )
            )
    return found


def _shown(sample: Sample, reader: Reader) -> np.ndarray | str | None:
    try:
        items = reader.items(sample)
    except BadSampleError as error:
        return f"rejected: {error}"
    if not items:
        return None
    return (
        _picture(sample, reader.members)
        if _picture(sample, reader.members) is not None
        else items[0].identity
    )


def _picture(sample: Sample, members: Collection[str]) -> np.ndarray | None:
    for suffix, data in sample.members.items():
        if suffix in members and suffix in ("jpg", "jpeg", "png", "webp"):
            return pixels.decode(data, max_pixels=100_000_000).array
    return None


class Content:
    """What a person sees of an embedded item: the picture of its sample, or its text."""

    def __init__(self, store: Store, readers: Mapping[str, Reader], index: ShardIndex) -> None:
        self._store, self._readers, self._index = store, readers, index
        self._fetch = Fetcher(index)

    def __call__(self, view: str, row: int) -> np.ndarray | str:
        """uint8 picture (H, W, 3), or the item's text; the key of its sample where it has neither."""
        found = self._store.items(view)
        sample = self._fetch(*self._index.place(found.samples[row][0]), self._readers[view].members)
        picture = _picture(sample, self._readers[view].members)
        return picture if picture is not None else found.identities[row] or sample.key


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
) -> list[pictures.Example]:
    """The queries and their best items, as a person sees them."""
    show = Content(store, readers, index)
    return [
        pictures.Example(
            show(pair[0], one.query),
            tuple(
                pictures.Result(show(pair[1], item), right, cosine)
                for item, right, cosine in zip(one.items, one.right, one.cosine, strict=True)
            ),
            one.rank,
        )
        for one in found
    ]
