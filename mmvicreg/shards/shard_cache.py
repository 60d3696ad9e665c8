"""Remote shards, whole, in a folder of this machine: downloaded once per node, verified, evicted when full.

http and https by the standard library, everything else (s3, gs, ...) by fsspec. A download that breaks goes
on where it stopped (a range request, if the file is still the same); one that stalls is cut after ``stall``
seconds; what arrives is a shard only when its length is right and its tar structure is whole, and only then
it gets its name. Errors that time may heal are retried with back-off and then stop the run; they never
change the order of samples. Shell commands are refused (shards.expand).
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmvicreg.errors import UserError
from mmvicreg.shards import index_file
from mmvicreg.shards.tar import BadShardError, Scan, scan_file

log = logging.getLogger("mmvicreg.shards.shard_cache")
CHUNK = 1 << 20
RETRIED = (408, 425, 429, 500, 502, 503, 504)


class RemoteError(UserError, OSError):
    """A remote shard could not be read after all attempts, or is not there."""


class Closed(RuntimeError):
    """Nobody waits for the shard any more."""


class _Transient(Exception):
    """Worth another attempt."""


class _Changed(_Transient):
    """The remote file is not the one the download began with: begin again."""


def cache_folder() -> str:
    """Where sidecars and spooled shards go when they cannot lie beside the data."""
    own = os.environ.get("MMVICREG_CACHE")
    return own or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mmvicreg")


def is_remote(path: str) -> bool:
    return "://" in path


@dataclass(frozen=True)
class ShardCache:
    """A folder of whole shards, shared by the processes of a machine. ``limit``: bytes it may hold."""

    folder: str = field(default_factory=lambda: os.path.join(cache_folder(), "shard_cache"))
    limit: int = 100_000_000_000
    stall: float = 60.0
    attempts: int = 6
    backoff: float = 1.0

    def get(
        self,
        url: str,
        *,
        size: int | None = None,
        digest: str = "",
        closed: Callable[[], bool] = lambda: False,
    ) -> str:
        """Path of the local copy of ``url``, downloaded where it is not there yet.

        ``size``, ``digest``: bytes and member table that the index says it has. ``closed`` is asked now and then
        whether to give up. Raises RemoteError where it cannot be had, BadShardError where what is there is not a whole
        tar, or no longer the indexed one, and Closed.
        """
        name = hashlib.sha256(url.encode()).hexdigest()[:32]  # of the whole URL: base names repeat
        path = Path(self.folder, f"{name}.tar")
        path.parent.mkdir(parents=True, exist_ok=True)
        table = path.with_suffix(".members")  # the digest of what was downloaded
        with _locked(path.with_suffix(".lock")):
            had = table.read_text() if digest and table.exists() else ""
            if path.exists() and (size not in (None, path.stat().st_size) or had != digest):
                path.unlink()  # a copy from before it was indexed anew, on another machine perhaps
            if not path.exists():
                table.unlink(missing_ok=True)
                members = index_file.digest(index_file.pack_table(self._download(url, path, closed)))
                table.write_text(members)
                found = path.stat().st_size
                if size not in (None, found) or digest not in ("", members):
                    path.unlink()
                    raise BadShardError(
                        f"{url} has {found} bytes, its index says {size}: it changed after it was indexed. Restore "
                        f"it, or index it anew: mmvicreg check {url} --again"
                    )
            os.utime(path)
        self._evict(path)
        return str(path)

    def _download(self, url: str, path: Path, closed: Callable[[], bool]) -> Scan:
        """Attempts until a whole tar is there; bytes gained reset the count, a new beginning does not."""
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        failures, stamp, why = 0, "", ""
        while failures < self.attempts:
            had = part.stat().st_size if part.exists() else 0
            try:
                stamp = self._append(url, part, stamp, closed=closed)
                found = self._verify(url, part)
                os.replace(part, path)
                return found
            except Closed:
                part.unlink(missing_ok=True)
                raise
            except (_Transient, OSError, http.client.HTTPException) as error:
                if isinstance(error, RemoteError):
                    part.unlink(missing_ok=True)
                    raise
                have = part.stat().st_size if part.exists() else 0
                advanced = have > had and not isinstance(error, _Changed)
                failures = 1 if advanced else failures + 1
                why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                log.warning("%s at byte %d: %s (attempt %d of %d)", url, have, why, failures, self.attempts)
                if isinstance(error, _Changed):
                    part.unlink(missing_ok=True)
                    stamp = ""
                _pause(min(60.0, self.backoff * 2 ** (failures - 1)), url, closed)
        part.unlink(missing_ok=True)
        raise RemoteError(f"{url} could not be read in {self.attempts} attempts; the last: {why}")

    def _append(self, url: str, part: Path, stamp: str, *, closed: Callable[[], bool]) -> str:
        """Append what is missing to ``part``; returns the remote file's stamp (its ETag, or its size)."""
        opened = (
            self._http(url, part, stamp)
            if url.startswith(("http://", "https://"))
            else self._fsspec(url, part)
        )
        now, total, chunks = opened
        if stamp and now != stamp:
            raise _Changed(f"it changed from {stamp} to {now}")
        with open(part, "ab") as file:
            for chunk in chunks:
                _pause(0.0, url, closed)
                file.write(chunk)
                file.flush()
        have = part.stat().st_size
        if total is not None and have > total:
            raise _Changed(f"{have} bytes came, {total} were announced")
        if total is not None and have < total:
            raise _Transient(f"cut at {have} of {total} bytes")
        return now

    def _http(self, url: str, part: Path, stamp: str) -> tuple[str, int | None, Iterator[bytes]]:
        have = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            response = urllib.request.urlopen(request, timeout=self.stall)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                raise _Changed("the range is not there any more") from None
            if error.code in RETRIED:
                raise _Transient(f"HTTP {error.code}") from None
            raise RemoteError(f"{url}: HTTP {error.code} {error.reason}") from None
        if have and response.status != 206:  # no ranges here: begin again
            part.unlink()
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        now = response.headers.get("ETag") or response.headers.get("Last-Modified") or f"{total} bytes"
        return now, total, _chunks(response)

    def _fsspec(self, url: str, part: Path) -> tuple[str, int | None, Iterator[bytes]]:
        try:
            import fsspec
        except ImportError:
            raise RemoteError(
                f"{url}: reading it needs fsspec and its driver: pip install fsspec s3fs"
            ) from None
        try:
            system, path = fsspec.core.url_to_fs(url)
            info = self._in_time(system.info, path)
        except FileNotFoundError:
            raise RemoteError(f"{url} does not exist") from None
        except (ImportError, PermissionError, ValueError) as error:
            raise RemoteError(f"{url}: {error}") from None
        total = int(info["size"])
        have = part.stat().st_size if part.exists() else 0
        now = str(info.get("ETag") or info.get("etag") or f"{total} bytes")
        return now, total, self._ranges(system, path, range(have, total, 8 * CHUNK), total)

    def _ranges(self, system: Any, path: str, starts: range, total: int) -> Iterator[bytes]:
        for start in starts:
            end = min(total, start + 8 * CHUNK)
            yield self._in_time(partial(system.cat_file, path, start=start, end=end))

    def _in_time(self, function: Any, *arguments: Any) -> Any:
        """Drivers have time-outs of their own, or none; ours holds for each request.

        The thread is a daemon: one that its driver never lets go of does not keep the process from ending. Errors
        of the driver's own (of its HTTP client, say) are worth another attempt.
        """
        answer: Future[Any] = Future()

        def ask() -> None:
            try:
                answer.set_result(function(*arguments))
            except Exception as error:
                answer.set_exception(error)

        threading.Thread(target=ask, name="mmvicreg-request", daemon=True).start()
        try:
            return answer.result(timeout=self.stall)
        except FutureTimeout:
            raise _Transient(f"no answer in {self.stall:g} s") from None
        except (OSError, ImportError, ValueError):
            raise
        except Exception as error:
            raise _Transient(f"{type(error).__name__}: {error}") from error

    @staticmethod
    def _verify(url: str, part: Path) -> Scan:
        """A whole tar: a body that was cut where nothing tells its length is noticed here."""
        found = scan_file(str(part))[0]
        problems = found.problems
        if any(p.kind in ("truncated", "empty file") for p in problems):
            raise _Changed(f"the tar is not whole ({problems[0].message})")
        if problems:
            part.unlink()
            raise BadShardError(f"{url}: {problems[0].kind} at {problems[0].where}: {problems[0].message}")
        return found

    def _evict(self, keep: Path) -> None:
        """Remove the shards used longest ago; a reader that holds one open keeps reading it."""
        held = []
        for path in Path(self.folder).glob("*.tar"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process evicts too
                continue
            held.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in held)
        for _, size, path in sorted(held):
            if total <= self.limit:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of the machine at a time; the lock is released when its holder dies."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pause(seconds: float, url: str, closed: Callable[[], bool]) -> None:
    """Sleep, unless nobody waits any more: then raise Closed."""
    end = time.monotonic() + seconds
    while not closed():
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 0.2))
    raise Closed(f"{url}: the loader was closed while it was read")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    with response:
        while chunk := response.read1(CHUNK):
            yield chunk
