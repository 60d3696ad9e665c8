"""Remote shards on their way before a step needs them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from mmvicreg.shards.index import ShardIndex
from mmvicreg.shards.remote_cache import ShardCache, is_remote


class Lookahead:
    """Downloads remote shards before they are read, a few at a time, in the order they are asked for."""

    def __init__(self, index: ShardIndex, spool: ShardCache, *, threads: int = 4) -> None:
        self._shards, self._spool = index.shards, spool
        self.wanted = any(is_remote(shard.path) for shard in index.shards)
        self._asked: set[int] = set()
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mmvicreg-spool")

    def want(self, shards: list[int]) -> None:
        """Begin to download what is not on its way; whoever reads a shard meets its errors."""
        for number in shards:
            shard = self._shards[number]
            if is_remote(shard.path) and number not in self._asked:
                self._asked.add(number)
                self._pool.submit(
                    self._spool.get,
                    shard.path,
                    size=shard.bytes,
                    digest=shard.entry.digest,
                    closed=self._closed.is_set,
                )

    def close(self) -> None:
        """Stop, also what is on its way."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
