"""The shard cache: a folder of this machine with whole copies of shards, verified, removed when it is full.

A copy gets its name only after its length and its tar structure have been found right. Errors that another attempt may
avoid are retried after growing pauses and then stop the run; they never change the order of samples.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mmvicreg.errors import printable
from mmvicreg.shards import index_file
from mmvicreg.shards.download import RemoteError, Transfer, TransientError, pause
from mmvicreg.shards.locations import cache_folder, identity, is_remote, redact
from mmvicreg.shards.tar import BadShardError, Scan, scan_file

log = logging.getLogger("mmvicreg.shards.shard_cache")


@dataclass(frozen=True)
class ShardCache:
    """A folder of whole shards, shared by the processes of a machine."""

    folder: str = field(default_factory=lambda: os.path.join(cache_folder(), "shards"))
    limit: int = 100_000_000_000
    """bytes that it may hold, unfinished downloads included"""
    stall: float = 60.0
    """seconds without data after which a transfer is given up"""
    attempts: int = 6
    """attempts in a row that may bring no new bytes"""
    backoff: float = 1.0
    """seconds before the second attempt; doubled before each further one"""
    copy_local: bool = False
    """copy shards with local paths, too: for slow network disks"""

    def copies(self, path: str) -> bool:
        """Whether the shard at ``path`` is read from a copy."""
        return self.copy_local or is_remote(path)

    def get(
        self,
        source: str,
        *,
        size: int | None = None,
        digest: str = "",
        closed: Callable[[], bool] = lambda: False,
    ) -> str:
        """Path of the copy of ``source`` (a URL or a local path), which is made if it is not there.

        ``size``, ``digest``: bytes, and hash of the member table (its content hash included), that the index holds.
        ``closed`` is asked now and then whether to give up. Raises RemoteError if it cannot be had, BadShardError if
        it is not a whole tar or no longer the indexed one, and Closed.
        """
        name = hashlib.sha256(identity(source).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        path = Path(self.folder, f"{name}.tar")
        path.parent.mkdir(parents=True, exist_ok=True)
        table = path.with_suffix(".members")  # the digest of what was copied
        with index_file.only_one_process(str(path.with_suffix(".lock"))):
            had = table.read_text(encoding="utf-8") if digest and table.exists() else ""
            if path.exists() and (size not in (None, path.stat().st_size) or had != digest):
                path.unlink()  # a copy from before it was indexed anew, on another machine perhaps
            if not path.exists():
                table.unlink(missing_ok=True)
                members = index_file.digest(index_file.pack_table(self._copy(source, path, closed)))
                table.write_text(members)
                found = path.stat().st_size
                if size not in (None, found) or digest not in ("", members):
                    path.unlink()
                    shown = redact(source)
                    raise BadShardError(
                        f"{shown} has {found} bytes, its index says {size}: it changed after it was indexed. Restore "
                        f"it, or index it anew: mmvicreg check {shown} --again"
                    )
            os.utime(path)
        self._evict(path)
        return str(path)

    def _copy(self, source: str, path: Path, closed: Callable[[], bool]) -> Scan:
        """Attempts until a whole tar is there. More bytes than any attempt had before reset their count."""
        transfer = Transfer(source, path.with_suffix(".part"), stall=self.stall, closed=closed)
        failures, most, why = 0, 0, ""
        try:
            transfer.restart()  # what a killed process left
            while failures < self.attempts:
                try:
                    transfer.attempt()
                    found = self._verify(transfer)
                    os.replace(transfer.part, path)
                    return found
                except RemoteError:
                    raise
                except (TransientError, OSError, http.client.HTTPException) as error:
                    have = transfer.size()
                    failures = 1 if have > most else failures + 1
                    most = max(most, have)
                    why = redact(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
                shown = redact(source)
                log.warning("%s at byte %d: %s (attempt %d of %d)", shown, have, why, failures, self.attempts)
                pause(min(60.0, self.backoff * 2 ** (failures - 1)), source, closed)
        finally:
            transfer.part.unlink(missing_ok=True)
        raise RemoteError(f"{redact(source)} could not be read in {self.attempts} attempts; the last: {why}")

    @staticmethod
    def _verify(transfer: Transfer) -> Scan:
        """The samples of a whole tar: a body that was cut is noticed here if its length was not announced."""
        found = scan_file(str(transfer.part))[0]
        if any(p.kind in ("truncated", "empty file") for p in found.problems):
            transfer.restart()
            raise TransientError(f"the tar is not whole ({found.problems[0].message})")
        if found.problems:
            first = found.problems[0]
            shown = redact(transfer.source)
            raise BadShardError(printable(f"{shown}: {first.kind} at {first.where}: {first.message}"))
        return found

    def _evict(self, keep: Path) -> None:
        """Remove what killed downloads left, then the copies used longest ago; open ones can still be read."""
        held, total = [], 0
        for path in (*Path(self.folder).glob("*.part"), *Path(self.folder).glob("*.tar")):
            try:
                status = path.stat()
                if path.suffix == ".part" and _abandoned(path):
                    path.unlink()
                    continue
            except FileNotFoundError:  # another process evicts, or has finished its download
                continue
            total += status.st_size
            if path.suffix == ".tar" and path != keep:
                held.append((status.st_mtime_ns, status.st_size, path))
        for _, size, path in sorted(held):
            if total <= self.limit:
                return
            path.unlink(missing_ok=True)
            path.with_suffix(".members").unlink(missing_ok=True)
            total -= size


def _abandoned(part: Path) -> bool:
    """Whether no process holds the lock of an unfinished download."""
    try:
        fd = os.open(part.with_suffix(".lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
