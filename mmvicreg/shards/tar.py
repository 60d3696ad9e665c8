"""The headers of one tar file: what it holds, and everything that is wrong with it.

Only headers are read (512 bytes a member). Samples follow webdataset's rule: the key is the member's path
up to the first dot of its file name, the suffix is all that follows, in lower case; the members of a sample
lie next to each other. Python's ``tarfile`` stops silently at a damaged header and webdataset never looks
for the end marker, so a cut shard trains as a shorter one; here every header's checksum, every length and
the end of the file are checked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mmvicreg.errors import InvalidValueError

BLOCK = 512
RECORD = 20 * BLOCK
"""An empty tar is one of these; more zeros than that are a file whose content was lost."""
MOST_SUFFIXES = 1 << 16
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""How gzip, bzip2, xz and zstd begin."""
ReadAt = Callable[[int, int], bytes]
"""(number of bytes, offset) -> the bytes, fewer at the end of the file."""

KINDS = {
    "missing file": "the file cannot be opened",
    "empty file": "no bytes, or nothing but zeros",
    "not a tar": "the first block is not a tar header",
    "truncated": "the file ends inside a member, or between members without the end marker",
    "damaged header": "a header's checksum does not match its bytes",
    "data after the end": "bytes follow the end marker: concatenated tars, or a zeroed header",
    "unsupported member": "a sparse file, a member too large, or more suffixes than an index holds",
    "keys not adjacent": "the members of a sample are not next to each other",
    "duplicate member": "two members of a sample have the same suffix",
}
"""Kinds of problem that make a shard unusable, with what each means."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong: its ``kind`` (a key of KINDS), the shard, where (byte offset or key), details."""

    kind: str
    shard: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.kind} at {self.where}: {self.message}"


class BadShardError(InvalidValueError):
    """A shard that cannot be used as it is; the message lists its problems."""


class Damage(Exception):
    """What a broken tar raises inside; ``scan`` and its like turn it into a Problem or a BadShardError."""

    def __init__(self, kind: str, where: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.where, self.message = kind, where, message


@dataclass(frozen=True)
class Member:
    """One regular file in a tar: its path, where its bytes begin, and how many there are. Or a ``link``: no bytes."""

    name: str
    offset: int
    size: int
    link: bool = False


@dataclass
class Scan:
    """All samples of one shard, in order, and its problems. ``suffixes[i][j]`` lies at ``offsets[i][j]``."""

    keys: list[str] = field(default_factory=list)
    suffixes: list[list[str]] = field(default_factory=list)
    offsets: list[list[int]] = field(default_factory=list)
    sizes: list[list[int]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Regular members whose name has no suffix: webdataset ignores them, and so do we."""
    links: list[str] = field(default_factory=list)
    """Links to other members (tar writes a file that has two names once): webdataset ignores them too."""
    problems: list[Problem] = field(default_factory=list)


def number(field_bytes: bytes) -> int:
    """A tar header's number: octal text, or base 256 when the top bit is set (GNU)."""
    if field_bytes[0] & 0x80:
        return int.from_bytes(field_bytes, "big") & ((1 << (8 * len(field_bytes) - 8)) - 1)
    text = field_bytes.split(b"\0", 1)[0].strip()
    return int(text, 8) if text else 0


def _header_size(header: bytes, at: int) -> int:
    kind = "damaged header" if at else "not a tar"
    try:
        stored, size = number(header[148:156]), number(header[124:136])
    except ValueError:
        message = f"no numbers in the header; it begins {header[:16]!r}{_hint(header)}"
        raise Damage(kind, f"byte {at}", message) from None
    actual = sum(header[:148]) + 8 * 32 + sum(header[156:])
    if stored != actual:
        message = f"checksum {stored} in the header, {actual} computed{_hint(header)}"
        raise Damage(kind, f"byte {at}", message)
    return size


def _hint(header: bytes) -> str:
    return "; compressed: unpack it to a plain tar" if header.startswith(COMPRESSED) else ""


def _pax(data: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    while data:
        digits, _, _ = data.partition(b" ")
        if not digits.isdigit() or not len(digits) < int(digits) <= len(data):
            raise InvalidValueError("a pax record with an impossible length")
        name, _, value = data[len(digits) + 1 : int(digits) - 1].partition(b"=")
        records[name] = value
        data = data[int(digits) :]
    return records


def _own_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and prefix:
        name = prefix + b"/" + name
    return name


def _check_end(read: ReadAt, at: int, size: int) -> None:
    while at < size:
        chunk = read(1 << 20, at)
        if not chunk:
            return
        if chunk.strip(b"\0"):
            where = at + len(chunk) - len(chunk.lstrip(b"\0"))
            raise Damage("data after the end", f"byte {where}", f"{size - where} bytes follow the end marker")
        at += len(chunk)


def members(read: ReadAt, size: int) -> Iterator[Member]:
    """Every regular file and link of a tar of ``size`` bytes, headers only; raises Damage where it is broken."""
    if size == 0:
        raise Damage("empty file", "byte 0", "0 bytes; fetch or pack it again")
    at, long_name, pax = 0, b"", dict[bytes, bytes]()
    while True:
        header = read(BLOCK, at)
        if at == 0 and len(header) < BLOCK:
            raise Damage("not a tar", "byte 0", f"{size} bytes, a tar header has 512")
        if len(header) < BLOCK:
            raise Damage(
                "truncated",
                f"byte {at}",
                "the file ends without the end marker (if it is known complete, append 1024 zero bytes)",
            )
        if not header.strip(b"\0"):
            return _check_end(read, at + BLOCK, size)
        length = _header_size(header, at)
        kind, data = header[156:157], at + BLOCK
        if b"size" in pax and kind in b"07\0":
            if not pax[b"size"].isdigit():
                raise Damage("damaged header", f"byte {at}", f"a pax size of {pax[b'size'][:20]!r}")
            length = int(pax[b"size"])
        if data + length > size:
            name = _own_name(header).decode("utf-8", "replace")
            raise Damage("truncated", f"byte {at}", f"{name!r} needs {length} bytes, {size - data} are left")
        if kind == b"L":
            long_name = _small(read, length, data).rstrip(b"\0")
        elif kind == b"x":
            try:
                pax = _pax(_small(read, length, data))
            except ValueError as error:
                raise Damage("damaged header", f"byte {at}", str(error)) from None
        elif kind in (b"0", b"\0", b"7", b"1", b"2"):
            path = (long_name or pax.get(b"path") or _own_name(header)).split(b"\0", 1)[0]
            yield Member(path.decode("utf-8", "surrogateescape"), data, length, link=kind in b"12")
        elif kind == b"S":
            raise Damage("unsupported member", f"byte {at}", "a GNU sparse file; pack it again without")
        if kind not in (b"L", b"K", b"x", b"g"):
            long_name, pax = b"", {}
        at = data + -(-length // BLOCK) * BLOCK


def _small(read: ReadAt, length: int, at: int) -> bytes:
    if length > 1 << 20:
        raise Damage("damaged header", f"byte {at}", f"a member name of {length} bytes")
    return read(length, at)


def split_name(name: str) -> tuple[str, str]:
    """(key, suffix) of a member's path; ("", "") where webdataset would skip it (no dot, hidden file)."""
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    if not stem or not dot or not suffix:
        return "", ""
    return folder + slash + stem, suffix.lower()


def scan(read: ReadAt, size: int, *, shard: str) -> Scan:
    """Samples and problems of the tar of ``size`` bytes that ``read`` reads; never raises for its content."""
    found, seen, apart, twice = Scan(), set[str](), list[str](), list[str]()
    try:
        for member in members(read, size):
            key, suffix = split_name(member.name)
            if member.link:
                found.links.append(member.name)
                continue
            if not key:
                found.skipped.append(member.name)
                continue
            if member.size >= 1 << 32:
                raise Damage(
                    "unsupported member", f"byte {member.offset}", f"{member.name} has {member.size} bytes"
                )
            if not found.keys or key != found.keys[-1]:
                if key in seen:
                    apart.append(key)
                seen.add(key)
                found.keys.append(key)
                found.suffixes.append([])
                found.offsets.append([])
                found.sizes.append([])
            elif suffix in found.suffixes[-1]:
                twice.append(member.name)
            found.suffixes[-1].append(suffix)
            found.offsets[-1].append(member.offset)
            found.sizes[-1].append(member.size)
        if size > RECORD and not read(BLOCK, 0).strip(b"\0"):
            raise Damage("empty file", "byte 0", f"{size} zero bytes; fetch or pack it again")
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


def scan_file(path: str) -> tuple[Scan, int, int]:
    """(samples and problems, bytes, modification time in ns) of a local tar."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for who writes to it
    except OSError as error:
        return Scan(problems=[Problem("missing file", path, "open", str(error))]), 0, 0
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            message = "not a regular file; give a tar on a disk (mmvicreg.stream.sequential reads pipes)"
            return Scan(problems=[Problem("missing file", path, "open", message)]), 0, 0
        return (
            scan(lambda n, at: os.pread(fd, n, at), status.st_size, shard=path),
            status.st_size,
            status.st_mtime_ns,
        )
    except OSError as error:
        return Scan(problems=[Problem("missing file", path, "read", str(error))]), 0, 0
    finally:
        os.close(fd)
