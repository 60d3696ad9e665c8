"""The headers of one tar file: its samples, and everything that is wrong with it.

Samples follow webdataset's rule: the key is the member's path up to the first dot of its file name, the suffix is all
that follows, in lower case; the members of a sample lie next to each other. Python's ``tarfile`` stops silently at a
damaged header and webdataset does not check for the end marker, so they train on a truncated shard as on a shorter
one; here every header's checksum, every length and the end of the file are checked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from mmvicreg.errors import InvalidValueError, printable
from mmvicreg.shards.content import content_hash
from mmvicreg.shards.headers import Damage, Member, ReadAt, members
from mmvicreg.shards.locations import redact

MOST_SUFFIXES = 1 << 16
KINDS = {
    "missing file": "the file cannot be opened",
    "empty file": "no bytes, or nothing but zeros",
    "not a tar": "the first block is not a tar header",
    "truncated": "the file ends inside a member, or between members without the end marker",
    "damaged header": "a header's checksum does not match its bytes",
    "data after the end": "bytes follow the end marker: concatenated tars, or a zeroed header",
    "unsupported member": "a sparse or divided file, a member too large, or more suffixes than an index holds",
    "keys not adjacent": "the members of a sample are not next to each other",
    "duplicate member": "two members of a sample have the same suffix",
}
"""Kinds of problems that make a shard unusable, and their meaning."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its ``kind`` (a key of KINDS), the shard, where (byte offset or key), and details."""

    kind: str
    shard: str
    where: str
    message: str

    def __str__(self) -> str:
        return printable(redact(f"{self.shard}: {self.kind} at {self.where}: {self.message}"))


class BadShardError(InvalidValueError):
    """A shard that cannot be used as it is; the message lists its problems."""


@dataclass
class Scan:
    """All samples of one shard, in order, and its problems. Member ``suffixes[i][j]`` of sample i is at byte
    ``offsets[i][j]``."""

    keys: list[str] = field(default_factory=list)
    suffixes: list[list[str]] = field(default_factory=list)
    offsets: list[list[int]] = field(default_factory=list)
    sizes: list[list[int]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """regular members whose name has no suffix: webdataset ignores them, and so do we"""
    links: list[str] = field(default_factory=list)
    """links to other members (tar stores a file that has two names once): webdataset ignores them too"""
    problems: list[Problem] = field(default_factory=list)
    content: bytes = b""
    """:func:`mmvicreg.shards.content.content_hash` of the shard; empty if it was not computed"""


def split_name(name: str) -> tuple[str, str]:
    """(key, suffix) of a member's path; ("", "") where webdataset would skip it: no dot, or a hidden file."""
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    if not stem or not dot or not suffix:
        return "", ""
    return folder + slash + stem, suffix.lower()


def scan(read: ReadAt, size: int, *, shard: str) -> Scan:
    """Samples and problems of the tar of ``size`` bytes that ``read`` reads; raises nothing because of its content."""
    found, apart, twice = Scan(), list[str](), list[str]()
    try:
        _collect(members(read, size), found, apart, twice)
        several = len({suffix for row in found.suffixes for suffix in row})
        if several > MOST_SUFFIXES:
            message = f"{several} different suffixes; dots in keys make one of each key: rename the members"
            raise Damage("unsupported member", f"key {found.keys[0]}", message)
    except Damage as damage:
        found.problems.append(Problem(damage.kind, shard, damage.where, damage.message))
    if apart:
        message = (
            f"{len(apart)} keys come back after another one (sorted by suffix?); sort the members by name"
        )
        found.problems.append(Problem("keys not adjacent", shard, f"key {apart[0]}", message))
    if twice:
        message = f"{len(twice)} members repeat a suffix of their sample (dots in keys, or duplicate samples)"
        found.problems.append(Problem("duplicate member", shard, f"member {twice[0]}", message))
    return found


def _collect(listed: Iterator[Member], found: Scan, apart: list[str], twice: list[str]) -> None:
    """Group members into the samples of ``found``; ``apart`` takes keys that come back, ``twice`` repeated members."""
    seen, own = set[str](), set[str]()  # keys of the shard; suffixes of the sample
    for member in listed:
        key, suffix = split_name(member.name)
        if member.link:
            found.links.append(member.name)
            continue
        if not key:
            found.skipped.append(member.name)
            continue
        if member.size >= 1 << 32:
            message = f"{member.name} has {member.size} bytes, an index holds less than 4 GiB a member"
            raise Damage("unsupported member", f"byte {member.offset}", message)
        if not found.keys or key != found.keys[-1]:
            if key in seen:
                apart.append(key)
            seen.add(key)
            found.keys.append(key)
            found.suffixes.append([])
            found.offsets.append([])
            found.sizes.append([])
            own = set()
        elif suffix in own:
            twice.append(member.name)
        own.add(suffix)
        found.suffixes[-1].append(suffix)
        found.offsets[-1].append(member.offset)
        found.sizes[-1].append(member.size)


def scan_file(path: str) -> tuple[Scan, int, int]:
    """(samples, problems and content hash; bytes; modification time in ns) of a local tar."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for who writes to it
    except OSError as error:
        return Scan(problems=[Problem("missing file", path, "open", str(error))]), 0, 0
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            message = "not a regular file; give a tar on a disk (mmvicreg.stream.sequential reads pipes)"
            return Scan(problems=[Problem("missing file", path, "open", message)]), 0, 0

        def read(count: int, at: int) -> bytes:
            return os.pread(fd, count, at)

        found = scan(read, status.st_size, shard=path)
        if not found.problems:
            found.content = content_hash(read, status.st_size, offsets=found.offsets, sizes=found.sizes)
        return found, status.st_size, status.st_mtime_ns
    except OSError as error:
        return Scan(problems=[Problem("missing file", path, "read", str(error))]), 0, 0
    finally:
        os.close(fd)
