"""Copies of shards made before a step needs them, so that readers do not wait for the network."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from mmvicreg.shards.index import ShardIndex
from mmvicreg.shards.shard_cache import ShardCache


class ShardPrefetcher:
    """Copies shards into the shard cache, ``threads`` at a time, in the order they are requested."""

    def __init__(self, index: ShardIndex, shard_cache: ShardCache, *, threads: int = 4) -> None:
        self._shards, self._shard_cache = index.shards, shard_cache
        self.needed = any(shard_cache.copies(shard.path) for shard in index.shards)
        """whether any shard is read from a copy"""
        self._requested: set[int] = set()
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mmvicreg-shard-prefetch")

    def request(self, shards: list[int]) -> None:
        """Start copying the shards of these numbers; errors reach whoever reads the shard, not the caller."""
        for number in shards:
            shard = self._shards[number]
            if self._shard_cache.copies(shard.path) and number not in self._requested:
                self._requested.add(number)
                self._pool.submit(
                    self._shard_cache.get,
                    shard.path,
                    size=shard.bytes,
                    digest=shard.entry.digest,
                    closed=self._closed.is_set,
                )

    def close(self) -> None:
        """Stop, and abandon copies that are under way."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
