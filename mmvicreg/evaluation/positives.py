"""Which items match which queries, as a compressed sparse matrix: any number of matches on either side."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from mmvicreg.errors import InvalidValueError


@dataclass(frozen=True)
class Positives:
    """The matching items of query q are ``indices[offsets[q] : offsets[q + 1]]``, sorted, each once.

    ``offsets`` is int64 (Q + 1,), ``indices`` int64. Build with :meth:`from_pairs` or
    :meth:`from_identities`; the constructor checks nothing.
    """

    offsets: np.ndarray
    indices: np.ndarray
    num_items: int

    @property
    def num_queries(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """Number of matching items of each query, int64 (Q,)."""
        return np.diff(self.offsets)

    @staticmethod
    def from_pairs(query_n: np.ndarray, item_n: np.ndarray, *, num_queries: int, num_items: int) -> Positives:
        """Query ``query_n[i]`` matches item ``item_n[i]``; repeated pairs count once.

        Raises ValueError where the arrays differ in length, hold no whole numbers, or point outside the two sets.
        """
        query_n, item_n = _row_numbers("query", query_n), _row_numbers("item", item_n)
        if query_n.shape != item_n.shape or query_n.ndim != 1:
            raise InvalidValueError(
                f"pairs need two lists of one length, found {query_n.shape} and {item_n.shape}"
            )
        for name, rows, size in (("query", query_n, num_queries), ("item", item_n, num_items)):
            if len(rows) and (rows.min() < 0 or rows.max() >= size):
                raise InvalidValueError(
                    f"{name} rows must be in 0..{size - 1}, found {rows.min()}..{rows.max()}"
                )
        order = np.lexsort((item_n, query_n))
        query_n, item_n = query_n[order], item_n[order]
        if len(query_n):
            fresh = np.r_[True, (np.diff(query_n) != 0) | (np.diff(item_n) != 0)]
            query_n, item_n = query_n[fresh], item_n[fresh]
        offsets = np.r_[0, np.cumsum(np.bincount(query_n, minlength=num_queries))].astype(np.int64)
        return Positives(offsets, item_n, num_items)

    @staticmethod
    def from_identities(
        queries: Sequence[Sequence[Hashable]], items: Sequence[Sequence[Hashable]]
    ) -> Positives:
        """A query matches an item where they share a sample, or whatever else tells that they belong together.

        ``queries[q]`` and ``items[m]`` list the numbers of the samples in which the row occurs: one for an
        image, several for a caption that several images share. Names of classes do as well.
        """
        samples: dict[Hashable, list[int]] = {}
        for item, numbers in enumerate(items):
            for number in numbers:
                samples.setdefault(number, []).append(item)
        pairs = [(q, m) for q, numbers in enumerate(queries) for n in numbers for m in samples.get(n, ())]
        query_n, item_n = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
        return Positives.from_pairs(query_n, item_n, num_queries=len(queries), num_items=len(items))

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Query rows and item rows of every match, int64, sorted by query."""
        return np.repeat(np.arange(self.num_queries), self.counts), self.indices

    def transpose(self) -> Positives:
        """The same matches seen from the items."""
        query_n, item_n = self.pairs()
        return Positives.from_pairs(item_n, query_n, num_queries=self.num_items, num_items=self.num_queries)

    def select(self, query_rows: np.ndarray, item_rows: np.ndarray) -> Positives:
        """The matches among these rows only, renumbered in the order given."""
        query_at = np.full(self.num_queries, -1)
        query_at[query_rows] = np.arange(len(query_rows))
        item_at = np.full(self.num_items, -1)
        item_at[item_rows] = np.arange(len(item_rows))
        query_n, item_n = (at[rows] for at, rows in zip((query_at, item_at), self.pairs(), strict=True))
        keep = (query_n >= 0) & (item_n >= 0)
        sizes = {"num_queries": len(query_rows), "num_items": len(item_rows)}
        return Positives.from_pairs(query_n[keep], item_n[keep], **sizes)


def require_positives(positives: object) -> None:
    """Raises ValueError for matches in another form, such as the lists of a JSON file."""
    if not isinstance(positives, Positives):
        raise InvalidValueError(
            f"positives is a {type(positives).__name__}; expected a Positives: Positives.from_pairs takes the rows of "
            "queries and items that match, Positives.from_identities the samples of each row"
        )


def _row_numbers(name: str, rows: np.ndarray) -> np.ndarray:
    found = np.asarray(rows)
    if found.size and found.dtype.kind not in "iu":
        raise InvalidValueError(f"{name} rows must be whole numbers, found values of type {found.dtype}")
    return found.astype(np.int64)
