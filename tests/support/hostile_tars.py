"""Tars that break in every way known to us, built in memory, each with the verdict it must get.

``CORPUS``: name -> (builder, kind of the problem, or "" for a sound tar with the members that ``SOUND`` names).
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Mapping

Builder = Callable[[], bytes]


def tar(
    members: Mapping[str, bytes], *, format: int = tarfile.PAX_FORMAT, pax: Mapping[str, str] | None = None
) -> bytes:
    """A tar of ``members``; ``pax``: records of its first member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as file:
        for position, (name, data) in enumerate(members.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.pax_headers = dict(pax or {}) if position == 0 else {}
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


PLAIN = {"a.txt": b"first", "a.cls": b"1", "b.txt": b"second", "b.cls": b"2"}


def header(name: bytes, size: bytes, kind: bytes) -> bytes:
    """A header block with a right checksum."""
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    block[:100] = name.ljust(100, b"\0")
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def raw(*blocks: bytes) -> bytes:
    """Blocks, filled up to 512 bytes each, and the end marker."""
    return b"".join(block.ljust(-(-len(block) // 512) * 512, b"\0") for block in blocks) + bytes(1024)


def pax_records(*records: bytes) -> bytes:
    """Records with their lengths."""
    out = b""
    for record in records:
        length = len(record) + 3
        length += len(str(length)) - 1
        out += b"%d %s\n" % (length, record)
    return out


def with_global(record: bytes) -> bytes:
    """A tar whose global pax header holds ``record``."""
    records = pax_records(record)
    return header(b"g", b"%011o" % len(records), b"g") + raw(records)[:-1024] + tar(PLAIN)


def sparse(version: str) -> bytes:
    """What GNU tar --sparse --format=posix and bsdtar write: the map of holes is part of the records or the data."""
    if version == "1.0":
        records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.jpg"}
        content = {"GNUSparseFile.0/a.jpg": b"1\n0\n4\n".ljust(512, b"\0") + b"data"}
    elif version == "0.1":
        records = {"GNU.sparse.map": "0,4", "GNU.sparse.size": "9000", "GNU.sparse.name": "a.jpg"}
        content = {"GNUSparseFile.0/a.jpg": b"data"}
    else:
        records = {"GNU.sparse.numblocks": "1", "GNU.sparse.size": "9000", "GNU.sparse.offset": "0"}
        content = {"a.jpg": b"data"}
    return tar(content, pax={**records, "GNU.sparse.realsize": "9000"})


def sized(record: bytes) -> bytes:
    """A member whose pax record gives the size."""
    records = pax_records(record)
    return raw(
        header(b"x", b"%011o" % len(records), b"x"), records, header(b"a.txt", b"%011o" % 0, b"0"), b"12345"
    )


CORPUS: dict[str, tuple[Builder, str]] = {
    "ustar": (lambda: tar(PLAIN, format=tarfile.USTAR_FORMAT), ""),
    "gnu": (lambda: tar(PLAIN, format=tarfile.GNU_FORMAT), ""),
    "pax": (lambda: tar(PLAIN), ""),
    "pax with times": (lambda: tar(PLAIN, pax={"mtime": "1.5", "LIBARCHIVE.creationtime": "1"}), ""),
    "global comment": (lambda: with_global(b"comment=a commit"), ""),
    "old tar without type": (lambda: raw(header(b"a.txt", b"%011o" % 5, b"\0"), b"first"), ""),
    "size in a pax record": (lambda: sized(b"size=5"), ""),
    "sparse 1.0": (lambda: sparse("1.0"), "unsupported member"),
    "sparse 0.1": (lambda: sparse("0.1"), "unsupported member"),
    "sparse 0.0": (lambda: sparse("0.0"), "unsupported member"),
    "sparse of star": (
        lambda: tar({"a.jpg": b"data"}, pax={"SCHILY.realsize": "9000"}),
        "unsupported member",
    ),
    "sparse of old GNU": (lambda: raw(header(b"a.jpg", b"%011o" % 4, b"S"), b"data"), "unsupported member"),
    "rest of another volume": (
        lambda: raw(header(b"a.jpg", b"%011o" % 4, b"M"), b"data"),
        "unsupported member",
    ),
    "global path": (lambda: with_global(b"path=x.txt"), "unsupported member"),
    "global size": (lambda: with_global(b"size=1"), "unsupported member"),
    "negative size": (lambda: raw(header(b"a.txt", b"-0000000777", b"0")), "not a tar"),
    "size with underscore": (lambda: raw(header(b"a.txt", b"0000_0000_5", b"0"), b"first"), "not a tar"),
    "size of 8 EB": (lambda: raw(header(b"a.txt", b"\x80" + b"\x7f" + b"\xff" * 10, b"0")), "truncated"),
    "pax size without digits": (lambda: sized(b"size=five"), "damaged header"),
    "pax size of 5,000 digits": (lambda: sized(b"size=" + b"9" * 5000), "damaged header"),
    "pax size of minus one": (lambda: sized(b"size=-1"), "damaged header"),
    "pax record longer than its data": (
        lambda: raw(header(b"x", b"%011o" % 9, b"x"), b"999 a=bc\n"),
        "damaged header",
    ),
    "pax record of 5,000 digits": (
        lambda: raw(header(b"x", b"%011o" % 5100, b"x"), b"9" * 5000 + b" a=" + b"b" * 97),
        "damaged header",
    ),
    "name of 2 MB": (
        lambda: raw(header(b"L", b"%011o" % (2 << 20), b"L"), b"x" * (2 << 20)),
        "damaged header",
    ),
    "compressed": (lambda: gzip.compress(tar(PLAIN)), "not a tar"),
    "no bytes": (lambda: b"", "empty file"),
    "only zeros": (lambda: bytes(20480), "empty file"),
    "a page of HTML": (lambda: b"<html>404</html>" * 100, "not a tar"),
    "no end marker": (lambda: tar(PLAIN).rstrip(b"\0"), "truncated"),
    "two tars": (lambda: tar(PLAIN) * 2, "data after the end"),
    "sample repeated": (lambda: apart(), "keys not adjacent"),
    "member repeated": (lambda: twice(), "duplicate member"),
}
SOUND = {
    "old tar without type": {"a": {"txt": b"first"}},
    "size in a pax record": {"a": {"txt": b"12345"}},
}
"""Members of the sound tars that are not PLAIN."""


def apart() -> bytes:
    """A sample whose members lie around another one."""
    return tar({"a.txt": b"1", "b.txt": b"2", "a.cls": b"3"})


def twice() -> bytes:
    """A sample with two members of one suffix."""
    return tar({"a.txt": b"1", "a.TXT": b"2"})
