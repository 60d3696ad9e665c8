"""The members of one sample by positioned reads: no position to keep, no order to follow, safe from many threads."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping

import numpy as np

from mmvicreg.shards.index import Shard, ShardIndex
from mmvicreg.shards.index_file import MemberTable, digest, pack_table, read_table
from mmvicreg.shards.shard_cache import ShardCache
from mmvicreg.shards.tar import BadShardError, scan_file
from mmvicreg.stream.reader import MAX_MEMBER, Sample

MOST_OPEN = 512
NO_LIMITS: Mapping[str, int] = {}


class _OpenShard:
    """An open shard and its member table; the descriptor closes when the last thread releases it."""

    def __init__(self, shard: Shard, path: str) -> None:
        self.fd = -1
        self.table: MemberTable = read_table(shard.index_file, shard.entry)
        self.kept = np.setdiff1d(np.arange(shard.entry.count), shard.excluded) if shard.excluded else None
        """numbers in the tar of the samples that are not left out; None for all"""
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self.fd)
        touched = path == shard.path and str(status.st_mtime_ns) != shard.entry.stamp
        if status.st_size != shard.bytes or (touched and not _same_content(shard, path)):
            raise BadShardError(
                f"{path} has {status.st_size} bytes, its index says {shard.bytes}: it changed after it was "
                "indexed. Restore it, or start a new run on the new index"
            )

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _same_content(shard: Shard, path: str) -> bool:
    """Whether a file whose modification time changed still has the members and the content of its index."""
    return digest(pack_table(scan_file(path)[0])) == shard.entry.digest


class Fetcher:
    """``fetch(shard, place, members)`` gives a Sample. The ``keep`` shards used last stay open.

    ``keep`` None takes at most a quarter of the files that the process may open. Raises BadShardError if a shard is no
    longer what was indexed, OSError if storage fails.
    """

    def __init__(
        self, index: ShardIndex, *, keep: int | None = None, shard_cache: ShardCache | None = None
    ) -> None:
        self.index = index
        self._shard_cache = shard_cache or ShardCache()
        self._keep = _files_to_keep_open() if keep is None else keep
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._starts = index.starts.tolist()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __call__(
        self, shard: int, place: int, members: Collection[str], limits: Mapping[str, int] = NO_LIMITS
    ) -> Sample:
        """The sample at ``place`` of a shard, with those of ``members`` that it has.

        ``limits``: by member, the most bytes that are read (MAX_MEMBER if not named); of a larger one the size alone
        is given, in ``Sample.oversized``.
        """
        opened = self._opened(shard)
        number = self._starts[shard] + place
        if opened.kept is not None:
            place = int(opened.kept[place])
        content, oversized = {}, {}
        for suffix, (offset, size) in opened.table.members(place).items():
            if suffix not in members:
                continue
            if size > limits.get(suffix, MAX_MEMBER):
                oversized[suffix] = size
                continue
            data = os.pread(opened.fd, size, offset)
            content[suffix] = data if len(data) == size else _rest(opened, data, offset, size)
        return Sample(opened.table.keys[place], number, content, oversized)

    def _opened(self, shard: int) -> _OpenShard:
        with self._lock:
            held = self._open.get(shard)
            if held is not None:
                self._open.move_to_end(shard)
                return held
        # Opened outside the lock: two threads may both do it, and the loser's descriptor closes by itself.
        opened = self._open_shard(shard)
        with self._lock:
            opened = self._open.setdefault(shard, opened)
            self._open.move_to_end(shard)
            if len(self._open) > self._keep:
                self._open.popitem(last=False)
        return opened

    def _open_shard(self, shard: int) -> _OpenShard:
        try:
            return _OpenShard(self.index.shards[shard], self.local(shard))
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        with self._lock:
            self._keep = max(1, len(self._open) // 2)  # others need files, too
            self._open.clear()
        return _OpenShard(self.index.shards[shard], self.local(shard))

    def local(self, shard: int) -> str:
        """Path of a shard on this machine; one that is read from a copy is copied if the shard cache lacks it."""
        path, size = self.index.shards[shard].path, self.index.shards[shard].bytes
        if not self._shard_cache.copies(path):
            return path
        expected = self.index.shards[shard].entry.digest
        return self._shard_cache.get(path, size=size, digest=expected, closed=self._closed.is_set)

    def close(self) -> None:
        """Give up waiting for copies of shards: a thread in a download does not keep the process from ending."""
        self._closed.set()


def _files_to_keep_open() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if soft == resource.RLIM_INFINITY else max(4, min(MOST_OPEN, soft // 4))


def _rest(opened: _OpenShard, data: bytes, offset: int, size: int) -> bytes:
    """Signals and network file systems may return part of a read; ask for the rest."""
    while len(data) < size:
        more = os.pread(opened.fd, size - len(data), offset + len(data))
        if not more:
            raise BadShardError(
                f"a shard ended at byte {offset + len(data)} while it was read: it was truncated"
            )
        data += more
    return data
