"""One file, copied from a URL or a slow disk to a local file that grows: http and https, fsspec, local paths.

A broken transfer continues where it stopped only if the source says that it is still the same file (its ETag or
modification time); otherwise it starts again, so that a copy is never made of two versions.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mmvicreg.errors import UserError
from mmvicreg.shards.locations import is_remote, redact

CHUNK = 1 << 20
RETRIED = (408, 425, 429, 500, 502, 503, 504)


class RemoteError(UserError, OSError):
    """A shard could not be read after all attempts, or is not there."""


class Closed(RuntimeError):
    """Nobody waits for the shard any more."""


class TransientError(Exception):
    """Worth another attempt, which continues where this one stopped."""


class ChangedError(TransientError):
    """Worth another attempt, from the beginning: the source does not continue what has arrived."""


@dataclass(frozen=True)
class Opened:
    """A source from some byte on: what identifies its version ("" if nothing does), its length if known, its bytes."""

    version: str
    total: int | None
    chunks: Iterator[bytes]
    current: Callable[[], str] | None = None
    """asks again for the version; None if one response gave all bytes"""


class Transfer:
    """The copying of ``source`` to ``part`` in as many attempts as it takes.

    ``stall``: seconds without an answer after which an attempt ends. ``closed`` is asked whether to give up.
    """

    def __init__(self, source: str, part: Path, *, stall: float, closed: Callable[[], bool]) -> None:
        self.source, self.part, self._stall, self._closed = source, part, stall, closed
        self._version = ""
        """of the bytes in ``part``; without one they cannot be continued"""

    def attempt(self) -> None:
        """Copy what is missing. Raises TransientError, RemoteError (another attempt does not help), Closed, OSError."""
        if not self._version:
            self.part.unlink(missing_ok=True)
        try:
            opened = _open(self.source, self.part, self._version, self._stall)
        except ChangedError:
            self.restart()
            raise
        if self._version and opened.version != self._version:
            self._restart(f"it changed from {self._version} to {opened.version}")
        self._version = opened.version
        with open(self.part, "ab") as file:
            for chunk in opened.chunks:
                pause(0.0, self.source, self._closed)
                file.write(chunk)
                file.flush()
        if opened.current is not None and (now := opened.current()) != opened.version:
            self._restart(f"it changed from {opened.version} to {now} while it was read")
        have = self.size()
        if opened.total is not None and have > opened.total:
            self._restart(f"{have} bytes came, {opened.total} were announced")
        if opened.total is not None and have < opened.total:
            raise TransientError(f"cut at {have} of {opened.total} bytes")

    def size(self) -> int:
        """Bytes in ``part``."""
        return _size(self.part)

    def restart(self) -> None:
        """Forget what has arrived."""
        self._version = ""
        self.part.unlink(missing_ok=True)

    def _restart(self, why: str) -> None:
        self.restart()
        raise TransientError(why)


def _open(source: str, part: Path, version: str, stall: float) -> Opened:
    if not is_remote(source):
        return _local(source, part)
    if source.startswith(("http://", "https://")):
        return _http(source, part, version, stall)
    return _fsspec(source, part, stall)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _local(source: str, part: Path) -> Opened:
    def version() -> str:
        status = os.stat(source)
        return f"{status.st_size} bytes of {status.st_mtime_ns}"

    def chunks() -> Iterator[bytes]:
        with open(source, "rb") as file:
            file.seek(_size(part))
            while chunk := file.read(CHUNK):
                yield chunk

    try:
        return Opened(version(), os.path.getsize(source), chunks(), version)
    except FileNotFoundError:
        raise RemoteError(f"{source} does not exist") from None


def _http(source: str, part: Path, version: str, stall: float) -> Opened:
    have = _size(part)
    headers = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    try:
        response = urllib.request.urlopen(_request(source, headers), timeout=stall)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise ChangedError("the range is not there any more") from None
        if error.code in RETRIED:
            raise TransientError(f"HTTP {error.code}") from None
        raise RemoteError(f"{redact(source)}: HTTP {error.code} {error.reason}") from None
    except (http.client.InvalidURL, ValueError):  # their text repeats the URL, with its secrets
        raise RemoteError(
            f"{redact(source)}: this URL cannot be asked for; check its host, port and spaces"
        ) from None
    if have and not _continues(response, have):  # no ranges here, or another version: the whole file comes
        part.unlink()
        have = 0
    length = response.headers.get("Content-Length")
    total = have + int(length) if length is not None and length.isdigit() else None
    now = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return Opened("" if now.startswith("W/") else now, total, _chunks(response))


def _request(source: str, headers: dict[str, str]) -> urllib.request.Request:
    """A request whose user and password, if the URL names them, are sent as basic authentication."""
    parts = urlsplit(source)
    login, at, host = parts.netloc.rpartition("@")
    if at:
        token = base64.b64encode(unquote(login).encode()).decode()
        headers = {**headers, "Authorization": f"Basic {token}"}
    return urllib.request.Request(parts._replace(netloc=host, fragment="").geturl(), headers=headers)


def _continues(response: http.client.HTTPResponse, have: int) -> bool:
    """Whether the answer is the range from byte ``have`` on. Raises ChangedError for another range."""
    if response.status != 206:
        return False
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != have:
        response.close()
        raise ChangedError(
            f"bytes from {have} on were asked for, it sent {found[0] if found else 'no range'}"
        )
    return True


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    with response:
        while chunk := response.read1(CHUNK):
            yield chunk


def _fsspec(source: str, part: Path, stall: float) -> Opened:
    try:
        import fsspec
    except ImportError:
        raise RemoteError(
            f"{redact(source)}: reading it needs fsspec and its driver: pip install fsspec s3fs"
        ) from None

    def information() -> dict[str, Any]:
        system.invalidate_cache()
        found = in_time(stall, system.info, path)
        assert isinstance(found, dict)
        return found

    try:
        system, path = fsspec.core.url_to_fs(source)
        first = information()
    except FileNotFoundError:
        raise RemoteError(f"{redact(source)} does not exist") from None
    except (ImportError, PermissionError, ValueError) as error:
        raise RemoteError(redact(f"{source}: {error}")) from None
    total = int(first["size"])
    starts = range(_size(part), total, 8 * CHUNK)
    version = _fsspec_version(first)
    return Opened(
        version, total, _ranges(system, path, starts, (total, stall)), lambda: _fsspec_version(information())
    )


def _fsspec_version(information: dict[str, Any]) -> str:
    names = ("ETag", "etag", "LastModified", "mtime", "updated", "last_modified")
    return str(next((information[name] for name in names if information.get(name)), ""))


def _ranges(system: Any, path: str, starts: range, limits: tuple[int, float]) -> Iterator[bytes]:
    total, stall = limits
    for start in starts:
        yield in_time(stall, partial(system.cat_file, path, start=start, end=min(total, start + 8 * CHUNK)))


def in_time(stall: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, given up after ``stall`` seconds: drivers have time-outs of their own, or none.

    The thread is a daemon: one that its driver never releases does not keep the process from ending. Errors of the
    driver's own (of its HTTP client, say) are worth another attempt.
    """
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(function(*arguments))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="mmvicreg-request", daemon=True).start()
    try:
        return answer.result(timeout=stall)
    except FutureTimeout:
        raise TransientError(f"no answer in {stall:g} s") from None
    except (OSError, ImportError, ValueError):
        raise
    except Exception as error:
        raise TransientError(redact(f"{type(error).__name__}: {error}")) from error


def pause(seconds: float, source: str, closed: Callable[[], bool]) -> None:
    """Sleep, unless nobody waits any more: then raise Closed."""
    end = time.monotonic() + seconds
    while not closed():
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 0.2))
    raise Closed(f"{redact(source)}: the loader was closed while it was read")
