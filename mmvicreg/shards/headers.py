"""The headers of a tar file, one after the other: which files it holds, and where their bytes lie.

ustar, old tars, GNU and pax headers are read; sparse and divided files are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mmvicreg.errors import InvalidValueError

BLOCK = 512
RECORD = 20 * BLOCK
"""bytes of an empty tar; a larger file of zeros has lost its content"""
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""first bytes of gzip, bzip2, xz and zstd files"""
ReadAt = Callable[[int, int], bytes]
"""``read(count, offset)`` gives the bytes; fewer at the end of the file"""
SPARSE = (b"GNU.sparse.", b"SCHILY.realsize", b"SCHILY.filetype")
"""pax records of sparse members: what is stored under their header is a map of holes and the parts between them"""

REGULAR = (b"0", b"\0", b"7")
"""types of regular files: ordinary, of old tars, contiguous"""


class Damage(Exception):
    """Raised while the headers of a damaged tar are read; callers turn it into a Problem or a BadShardError."""

    def __init__(self, kind: str, where: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.where, self.message = kind, where, message


@dataclass(frozen=True)
class Member:
    """One regular file of a tar: its path, the offset of its bytes and their number. Or a ``link``, without bytes.

    Bytes of a path that are not UTF-8 are written as escapes, such as ``caf\\xe9``, so that keys are always text.
    """

    name: str
    offset: int
    size: int
    link: bool = False


def number(field_bytes: bytes) -> int:
    """A number of a tar header: octal text, or base 256 if the top bit is set (GNU)."""
    if field_bytes[0] & 0x80:
        return int.from_bytes(field_bytes, "big") & ((1 << (8 * len(field_bytes) - 8)) - 1)
    text = field_bytes.split(b"\0", 1)[0].strip()
    if text and not text.isdigit():  # int() would take a sign, too
        raise InvalidValueError(f"not an octal number: {text!r}")
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


def _check_end(read: ReadAt, at: int, size: int) -> int:
    """The end of the file, after zeros only."""
    while at < size:
        chunk = read(1 << 20, at)
        if not chunk:
            break
        if chunk.strip(b"\0"):
            where = at + len(chunk) - len(chunk.lstrip(b"\0"))
            raise Damage("data after the end", f"byte {where}", f"{size - where} bytes follow the end marker")
        at += len(chunk)
    return at


def members(read: ReadAt, size: int) -> Iterator[Member]:
    """Every regular file and link of a tar of ``size`` bytes, by its headers. Raises Damage if it is damaged."""
    if size == 0:
        raise Damage("empty file", "byte 0", "0 bytes; fetch or pack it again")
    at, long_name, pax = 0, b"", dict[bytes, bytes]()
    while True:
        header = _header(read, at, size)
        if header is None:
            end = _check_end(read, at + BLOCK, size)
            if at == 0 and end > RECORD:
                raise Damage("empty file", "byte 0", f"{end} zero bytes; fetch or pack it again")
            return
        length = _header_size(header, at)
        kind, data = header[156:157], at + BLOCK
        if kind in REGULAR:
            length = _pax_size(pax, length, at)
        if data + length > size:
            name = _own_name(header).decode("utf-8", "replace")
            raise Damage("truncated", f"byte {at}", f"{name!r} needs {length} bytes, {size - data} are left")
        if kind == b"L":
            long_name = _small(read, length, data).rstrip(b"\0")
        elif kind in (b"x", b"g"):
            pax = _pax_records(_small(read, length, data), at, known=pax, everywhere=kind == b"g")
        elif kind in (*REGULAR, b"1", b"2"):
            path = (long_name or pax.get(b"path") or _own_name(header)).split(b"\0", 1)[0]
            yield Member(path.decode("utf-8", "backslashreplace"), data, length, link=kind in b"12")
        elif kind in (b"S", b"M"):
            what = "a GNU sparse file" if kind == b"S" else "the rest of a file from another tar"
            raise Damage("unsupported member", f"byte {at}", f"{what}; pack it again as an ordinary file")
        if kind not in (b"L", b"K", b"x", b"g"):
            long_name, pax = b"", {}
        at = data + -(-length // BLOCK) * BLOCK


def _header(read: ReadAt, at: int, size: int) -> bytes | None:
    """The header at byte ``at``; None at the end marker."""
    header = read(BLOCK, at)
    if at == 0 and len(header) < BLOCK:
        raise Damage("not a tar", "byte 0", f"{size} bytes, a tar header has 512")
    if len(header) < BLOCK:
        message = "the file ends without the end marker (if it is known complete, append 1024 zero bytes)"
        raise Damage("truncated", f"byte {at}", message)
    return header if header.strip(b"\0") else None


def _pax_size(pax: dict[bytes, bytes], length: int, at: int) -> int:
    """The size of a regular member, which a pax record may give in place of its header."""
    size = pax.get(b"size")
    if size is None:
        return length
    if not size.isdigit() or len(size) > 20:
        raise Damage("damaged header", f"byte {at}", f"a pax size of {size[:20]!r}")
    return int(size)


def _pax_records(data: bytes, at: int, *, known: dict[bytes, bytes], everywhere: bool) -> dict[bytes, bytes]:
    """Records that hold for the next member. Raises Damage for damaged records and for those of sparse members."""
    try:
        records = _pax(data)
    except ValueError as error:
        raise Damage("damaged header", f"byte {at}", str(error)) from None
    if any(name.startswith(SPARSE) for name in records):
        message = "a sparse file in pax format; pack it again without --sparse (bsdtar: --no-read-sparse)"
        raise Damage("unsupported member", f"byte {at}", message)
    if not everywhere:
        return records
    changed = sorted(name.decode() for name in records if name in (b"path", b"size", b"linkpath"))
    if changed:
        raise Damage("unsupported member", f"byte {at}", f"a pax record {changed[0]} for every member")
    return known


def _small(read: ReadAt, length: int, at: int) -> bytes:
    if length > 1 << 20:
        raise Damage("damaged header", f"byte {at}", f"a member name of {length} bytes")
    return read(length, at)
