"""Shards read from front to back without an index: pipes and other sources without random access.

The order is that of the tar. This mode cannot resume, shuffle or divide samples over processes; train with
``open_index`` and ``Stream``. It raises for every damage that the index refuses: truncation anywhere, a damaged header,
a missing end marker, members of a sample that are not adjacent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from mmvicreg.shards.headers import Damage, members
from mmvicreg.shards.tar import BadShardError, split_name
from mmvicreg.stream.reader import MAX_MEMBER, Sample

log = logging.getLogger("mmvicreg.stream.sequential")


class _Forward:
    """Positioned reads of a stream that can only go forward; the last block stays readable."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._at = file, 0

    def __call__(self, count: int, at: int) -> bytes:
        while self._at < at:
            skipped = len(self._file.read(min(1 << 20, at - self._at)))
            if not skipped:
                return b""
            self._at += skipped
        assert self._at == at, "a forward read went back"
        parts = []
        while count and (data := self._file.read(count)):
            parts.append(data)
            self._at += len(data)
            count -= len(data)
        return b"".join(parts)


def sequential_samples(shards: Iterable[tuple[str, BinaryIO]]) -> Iterator[Sample]:
    """Samples of (name, open binary file) pairs, in order; every member is read.

    Raises BadShardError at the first damage: with the sample it cut, nothing of it is yielded.
    """
    log.warning(
        "shards are read from front to back: this cannot be resumed, shuffled or divided over processes; "
        "train with open_index"
    )
    number = 0
    for name, file in shards:
        seen = set[str]()
        key, content = "", dict[str, bytes]()
        try:
            for at, suffix, data in _contents(file):
                if at != key:
                    if key:
                        yield Sample(key, number, content)
                        number += 1
                    if at in seen:
                        raise Damage("keys not adjacent", f"key {at}", "it comes back after another one")
                    seen.add(at)
                    key, content = at, {}
                if suffix in content:
                    raise Damage("duplicate member", f"key {at}", f"two members .{suffix}")
                content[suffix] = data
        except Damage as damage:
            raise BadShardError(f"{name}: {damage.kind} at {damage.where}: {damage.message}") from None
        if key:
            yield Sample(key, number, content)
            number += 1


def _contents(file: BinaryIO) -> Iterator[tuple[str, str, bytes]]:
    read = _Forward(file)
    for member in members(read, 1 << 62):
        key, suffix = split_name(member.name)
        if not key or member.link:
            continue
        if member.size > MAX_MEMBER:
            message = f"{member.name} has {member.size:,} bytes, at most {MAX_MEMBER:,} are read"
            raise Damage("unsupported member", f"byte {member.offset}", message)
        data = read(member.size, member.offset)
        if len(data) < member.size:
            raise Damage(
                "truncated", f"byte {member.offset}", f"{len(data)} of {member.size} bytes of {member.name}"
            )
        yield key, suffix, data
