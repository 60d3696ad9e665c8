"""The sidecar file: where every member of every shard lies, so that a sample is one positioned read.

Layout: a magic line; one block per shard; a JSON footer ``{shard name: entry}``; the footer's offset and
length as two little-endian uint64. Blocks are loaded one at a time, when a shard is first read, so memory
does not grow with the data set. About 10 bytes a member and the key a sample.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.shards.tar import BLOCK, Scan

MAGIC = b"mmvicreg index 1\n"


@dataclass(frozen=True)
class Entry:
    """What the footer says of one shard. ``stamp`` tells a changed file (mtime in ns, or a remote ETag)."""

    bytes: int
    stamp: str
    count: int
    suffixes: dict[str, int]
    at: int
    length: int
    digest: str


@dataclass(frozen=True)
class Block:
    """One shard's members: sample i owns members ``first[i]`` to ``first[i + 1]``."""

    keys: tuple[str, ...]
    suffixes: tuple[str, ...]
    first: np.ndarray
    suffix: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def members(self, row: int) -> dict[str, tuple[int, int]]:
        """Suffix -> (byte offset, size) of one sample."""
        lo, hi = int(self.first[row]), int(self.first[row + 1])
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
    """A scan as bytes: four lengths, then the arrays of a Block."""
    names = sorted({s for row in found.suffixes for s in row})
    ids = {name: i for i, name in enumerate(names)}
    keys = "\0".join(found.keys).encode("utf-8", "surrogateescape")
    table = "\0".join(names).encode("utf-8", "surrogateescape")
    first = np.cumsum([0, *map(len, found.suffixes)]).astype("<u4")
    suffix = np.array([ids[s] for row in found.suffixes for s in row], "<u2")
    offset = np.array([o // BLOCK for row in found.offsets for o in row], "<u4")
    size = np.array([n for row in found.sizes for n in row], "<u4")
    head = struct.pack("<4I", len(found.keys), len(suffix), len(table), len(keys))
    return b"".join([head, first.tobytes(), offset.tobytes(), size.tobytes(), suffix.tobytes(), table, keys])


def unpack_table(data: bytes) -> Block:
    """The Block that ``pack_table`` wrote."""
    n, m, table, keys = struct.unpack_from("<4I", data)
    at = 16
    arrays = []
    for count, dtype in ((n + 1, "<u4"), (m, "<u4"), (m, "<u4"), (m, "<u2")):
        arrays.append(np.frombuffer(data, dtype, count, at))
        at += arrays[-1].nbytes
    names = data[at : at + table].decode("utf-8", "surrogateescape").split("\0")
    all_keys = data[at + table : at + table + keys].decode("utf-8", "surrogateescape").split("\0")
    first, offset, size, suffix = arrays
    return Block(tuple(all_keys) if n else (), tuple(names), first, suffix, offset, size)


def read_footer(path: str) -> dict[str, Entry]:
    """Entries of a sidecar by shard name; empty where there is no sidecar, or not one of this version."""
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return {}
            end = file.seek(-16, os.SEEK_END)
            at, length = struct.unpack("<2Q", file.read(16))
            if at + length != end:
                return {}
            file.seek(at)
            return {name: Entry(**fields) for name, fields in json.loads(file.read(length)).items()}
    except (OSError, ValueError, TypeError, struct.error):
        return {}


def read_table(path: str, entry: Entry) -> Block:
    """One shard's block; ValueError where the sidecar is damaged.

    The block is where the entry says, or has moved: a sidecar is written again when shards are added to it, by this
    process or another.
    """
    data = _read(path, entry)
    if digest(data) != entry.digest:
        moved = [each for each in read_footer(path).values() if each.digest == entry.digest]
        data = _read(path, moved[0]) if moved else b""
    if digest(data) != entry.digest:
        raise InvalidValueError(
            f"{path}: the block at byte {entry.at} is damaged; delete the file, it is made again"
        )
    return unpack_table(data)


def _read(path: str, entry: Entry) -> bytes:
    with open(path, "rb") as file:
        file.seek(entry.at)
        return file.read(entry.length)


def digest(data: bytes) -> str:
    """Short hash of a block."""
    return hashlib.sha256(data).hexdigest()[:32]


def entry_of(data: bytes, *, size: int, stamp: str) -> Entry:
    """The entry of a freshly packed block; ``at`` is set when it is written."""
    block = unpack_table(data)
    counts = np.bincount(block.suffix, minlength=len(block.suffixes)).tolist()
    suffixes = {name: count for name, count in zip(block.suffixes, counts, strict=True) if count}
    return Entry(size, stamp, len(block.keys), suffixes, 0, len(data), digest(data))


def write(path: str, blocks: Iterable[tuple[str, Entry, bytes]], *, keep: Mapping[str, Entry]) -> None:
    """Write a sidecar atomically: the new blocks, and those of ``keep`` copied from the one at ``path``."""
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=folder, prefix=".index-", suffix=".part")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(MAGIC)
            footer = {}
            for name, entry, data in blocks:
                footer[name] = {**asdict(entry), "at": file.tell()}
                file.write(data)
            if keep:
                with open(path, "rb") as old:
                    for name, entry in keep.items():
                        old.seek(entry.at)
                        data = old.read(entry.length)
                        footer[name] = {**asdict(entry), "at": file.tell()}
                        file.write(data)
            at = file.tell()
            text = json.dumps(dict(sorted(footer.items()))).encode()
            file.write(text + struct.pack("<2Q", at, len(text)))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
