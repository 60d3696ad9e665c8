"""The index file: where every member of every shard lies, so that a sample is one positioned read.

Layout: a magic line; one member table per shard; a JSON footer ``{shard name: entry}``; the footer's offset and
length as two little-endian uint64. A table is loaded when its shard is first read, so memory does not grow with the
data set. A table takes about 10 bytes a member and the key of every sample.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.files import write_with
from mmvicreg.shards.headers import BLOCK
from mmvicreg.shards.tar import Scan

MAGIC = b"mmvicreg index 2\n"
CONTENT = 16
"""bytes of the content hash at the start of a member table"""


@dataclass(frozen=True)
class Entry:
    """What the footer says of one shard. ``at``, ``length``: where its member table lies in the index file."""

    bytes: int
    stamp: str
    """modification time in ns when it was indexed"""
    count: int
    suffixes: dict[str, int]
    """members by suffix"""
    at: int
    length: int
    digest: str
    """hash of the member table, which begins with the shard's content hash"""


@dataclass(frozen=True)
class FreshTable:
    """A shard that was just scanned: name, bytes, modification time in ns, and how to get its packed table.

    The table is loaded when it is written, so that those of a large data set need not be in memory together.
    """

    name: str
    size: int
    stamp: str
    load: Callable[[], bytes]


@dataclass(frozen=True)
class MemberTable:
    """The members of one shard: sample i owns members ``first[i]`` to ``first[i + 1]``."""

    keys: tuple[str, ...]
    suffixes: tuple[str, ...]
    first: np.ndarray
    suffix: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def members(self, sample: int) -> dict[str, tuple[int, int]]:
        """Suffix -> (byte offset, size) of one sample."""
        lo, hi = int(self.first[sample]), int(self.first[sample + 1])
        return {
            self.suffixes[s]: (o * BLOCK, n)
            for s, o, n in zip(
                self.suffix[lo:hi].tolist(),
                self.offset[lo:hi].tolist(),
                self.size[lo:hi].tolist(),
                strict=True,
            )
        }


def pack_table(found: Scan) -> bytes:
    """A scan as bytes: content hash, four lengths, the arrays of a MemberTable, suffixes and keys."""
    names = sorted({s for each in found.suffixes for s in each})
    ids = {name: i for i, name in enumerate(names)}
    keys = "\0".join(found.keys).encode("utf-8", "surrogateescape")
    table = "\0".join(names).encode("utf-8", "surrogateescape")
    first = np.cumsum([0, *map(len, found.suffixes)]).astype("<u4")
    suffix = np.array([ids[s] for each in found.suffixes for s in each], "<u2")
    offset = np.array([o // BLOCK for each in found.offsets for o in each], "<u4")
    size = np.array([n for each in found.sizes for n in each], "<u4")
    head = struct.pack("<4I", len(found.keys), len(suffix), len(table), len(keys))
    parts = [found.content.ljust(CONTENT, b"\0"), head, first.tobytes(), offset.tobytes(), size.tobytes()]
    return b"".join([*parts, suffix.tobytes(), table, keys])


def unpack_table(data: bytes) -> MemberTable:
    """The table that ``pack_table`` wrote."""
    n, m, table, keys = struct.unpack_from("<4I", data, CONTENT)
    at = CONTENT + 16
    arrays = []
    for count, dtype in ((n + 1, "<u4"), (m, "<u4"), (m, "<u4"), (m, "<u2")):
        arrays.append(np.frombuffer(data, dtype, count, at))
        at += arrays[-1].nbytes
    names = data[at : at + table].decode("utf-8", "surrogateescape").split("\0")
    all_keys = data[at + table : at + table + keys].decode("utf-8", "surrogateescape").split("\0")
    first, offset, size, suffix = arrays
    return MemberTable(tuple(all_keys) if n else (), tuple(names), first, suffix, offset, size)


def read_footer(path: str) -> dict[str, Entry]:
    """Entries of an index file by shard name; empty if there is no file, or not one of this version."""
    try:
        with open(path, "rb") as file:
            return _footer(file)
    except OSError:
        return {}


def _footer(file: BinaryIO) -> dict[str, Entry]:
    try:
        if file.read(len(MAGIC)) != MAGIC:
            return {}
        end = file.seek(-16, os.SEEK_END)
        at, length = struct.unpack("<2Q", file.read(16))
        if at + length != end:
            return {}
        file.seek(at)
        return {name: Entry(**fields) for name, fields in json.loads(file.read(length)).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, struct.error):
        return {}


def read_table(path: str, entry: Entry) -> MemberTable:
    """The member table of one shard. Raises ValueError if the index file is damaged.

    The table may have moved since ``entry`` was read: an index file is written again when shards are added to it, by
    this process or another.
    """
    data = _read(path, entry)
    if digest(data) != entry.digest:
        moved = [each for each in read_footer(path).values() if each.digest == entry.digest]
        data = _read(path, moved[0]) if moved else b""
    if digest(data) != entry.digest:
        raise InvalidValueError(
            f"{path}: the member table at byte {entry.at} is damaged; delete the file, it is made again"
        )
    return unpack_table(data)


def _read(path: str, entry: Entry) -> bytes:
    with open(path, "rb") as file:
        file.seek(entry.at)
        return file.read(entry.length)


def digest(data: bytes) -> str:
    """Short hash of a member table."""
    return hashlib.sha256(data).hexdigest()[:32]


def entry_of(data: bytes, *, size: int, stamp: str) -> Entry:
    """The entry of a freshly packed member table; ``at`` is set when it is written."""
    table = unpack_table(data)
    counts = np.bincount(table.suffix, minlength=len(table.suffixes)).tolist()
    suffixes = {name: count for name, count in zip(table.suffixes, counts, strict=True) if count}
    return Entry(size, stamp, len(table.keys), suffixes, 0, len(data), digest(data))


def add(path: str, tables: Sequence[FreshTable]) -> None:
    """Add the tables of shards to the index file at ``path``; entries of other shards are kept.

    The file is replaced as a whole, by one process at a time, so jobs that index shards of one folder at once lose
    nothing.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with only_one_process(f"{os.path.dirname(path) or '.'}/.{os.path.basename(path)}.lock"):
        write_with(Path(path), lambda partial: _write(partial, tables, path))


def _write(partial: Path, tables: Sequence[FreshTable], old: str) -> None:
    footer = {}
    with open(partial, "wb") as file:
        file.write(MAGIC)
        for name, entry, data in chain(_loaded(tables), _kept(old, {table.name for table in tables})):
            footer[name] = {**asdict(entry), "at": file.tell()}
            file.write(data)
        at = file.tell()
        text = json.dumps(dict(sorted(footer.items()))).encode()
        file.write(text + struct.pack("<2Q", at, len(text)))
        file.flush()
        os.fsync(file.fileno())


def _loaded(tables: Sequence[FreshTable]) -> Iterator[tuple[str, Entry, bytes]]:
    for table in tables:
        data = table.load()
        yield table.name, entry_of(data, size=table.size, stamp=table.stamp), data


def _kept(path: str, replaced: set[str]) -> Iterator[tuple[str, Entry, bytes]]:
    """The whole tables of the index file at ``path``, but for those of ``replaced`` shards."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return
    with file:  # one file for footer and tables: another process may put a new one in its place
        for name, entry in _footer(file).items():
            file.seek(entry.at)
            data = file.read(entry.length)
            if name not in replaced and digest(data) == entry.digest:
                yield name, entry, data


@contextmanager
def only_one_process(path: str) -> Iterator[None]:
    """Hold a lock file while the block runs; released when its process ends, however it ends.

    The file is removed afterwards. Raises InvalidValueError for a lock file that is a symbolic link. Where the file
    system has no locks, none is held.
    """
    fd = _locked(path)
    while not _is_at(fd, path):  # whoever held it has removed it in the meantime
        os.close(fd)
        fd = _locked(path)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.close(fd)


def _locked(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if os.path.islink(path):
            raise InvalidValueError(f"the lock file {path} is a symbolic link; delete it") from error
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
            os.close(fd)
            raise
    return fd


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
