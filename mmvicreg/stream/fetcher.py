"""One sample's members by positioned reads: no stream to follow, no order to keep, safe from many threads."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Collection

import numpy as np

from mmvicreg.shards.index import Shard, ShardIndex
from mmvicreg.shards.index_file import Block, digest, pack_table, read_table
from mmvicreg.shards.shard_cache import ShardCache, is_remote
from mmvicreg.shards.tar import BadShardError, scan_file
from mmvicreg.stream.reader import Sample


class _Open:
    """An open shard and its block; the descriptor closes when the last thread lets go of it."""

    def __init__(self, shard: Shard, path: str) -> None:
        self.fd = -1
        self.block: Block = read_table(shard.index_file, shard.entry)
        self.rows = np.setdiff1d(np.arange(shard.entry.count), shard.excluded) if shard.excluded else None
        self.fd = os.open(path, os.O_RDONLY)
        status = os.fstat(self.fd)
        touched = not is_remote(shard.path) and str(status.st_mtime_ns) != shard.entry.stamp
        if status.st_size != shard.bytes or (touched and not _same_members(shard, path)):
            raise BadShardError(
                f"{path} has {status.st_size} bytes, its index says {shard.bytes}: it changed after it was "
                "indexed. Restore it, or start a new run on the new index"
            )

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _same_members(shard: Shard, path: str) -> bool:
    """Whether a file that was written to, or only touched, still has the members of its index where they were."""
    return digest(pack_table(scan_file(path)[0])) == shard.entry.digest


class Fetcher:
    """``fetch(shard, row, members)`` -> Sample. Keeps the ``keep`` shards used last open.

    Raises BadShardError where a shard is no longer what was indexed, OSError where storage fails.
    """

    def __init__(self, index: ShardIndex, *, keep: int = 512, shard_cache: ShardCache | None = None) -> None:
        self.index = index
        self._shard_cache = shard_cache or ShardCache()
        self._keep = keep
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._starts = index.starts.tolist()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __call__(self, shard: int, row: int, members: Collection[str]) -> Sample:
        held = self._hold(shard)
        content, number = {}, self._starts[shard] + row
        if held.rows is not None:
            row = int(held.rows[row])
        for suffix, (offset, size) in held.block.members(row).items():
            if suffix in members:
                data = os.pread(held.fd, size, offset)
                content[suffix] = data if len(data) == size else self._rest(held, data, (offset, size))
        return Sample(held.block.keys[row], number, content)

    def _hold(self, shard: int) -> _Open:
        with self._lock:
            held = self._open.get(shard)
            if held is not None:
                self._open.move_to_end(shard)
                return held
        # Opened outside the lock: two threads may both do it, and the loser's descriptor closes by itself.
        held = _Open(self.index.shards[shard], self.local(shard))
        with self._lock:
            held = self._open.setdefault(shard, held)
            self._open.move_to_end(shard)
            if len(self._open) > self._keep:
                self._open.popitem(last=False)
        return held

    def local(self, shard: int) -> str:
        """Path of a shard on this machine; a remote one is downloaded if the shard_cache does not hold it."""
        path, size = self.index.shards[shard].path, self.index.shards[shard].bytes
        if not is_remote(path):
            return path
        digest = self.index.shards[shard].entry.digest
        return self._shard_cache.get(path, size=size, digest=digest, closed=self._closed.is_set)

    def close(self) -> None:
        """Give up waiting for remote shards: a thread in a download does not keep the process from ending."""
        self._closed.set()

    @staticmethod
    def _rest(held: _Open, data: bytes, place: tuple[int, int]) -> bytes:
        """Signals and network file systems may return part of a read; ask for the rest."""
        offset, size = place
        while len(data) < size:
            more = os.pread(held.fd, size - len(data), offset + len(data))
            if not more:
                raise BadShardError(
                    f"a shard ended at byte {offset + len(data)} while it was read: it was cut short"
                )
            data += more
        return data
