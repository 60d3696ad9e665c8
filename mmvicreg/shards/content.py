"""A hash of the content of a shard, from few enough bytes that indexing stays fast.

Of a shard of at most WHOLE bytes, every byte of every member is hashed. Of a larger one every member is: whole up to
SMALL bytes, else its first, middle and last PIECE bytes. Times and owners in tar headers are not. So a changed label or
caption, an array from another encoder and an image encoded anew change the hash; a few bytes edited in place inside a
large member need not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

WHOLE = 16 << 20
SMALL = 4096
PIECE = 1024
READ = 1 << 20


def content_hash(
    read: Callable[[int, int], bytes],
    size: int,
    *,
    offsets: Sequence[Sequence[int]],
    sizes: Sequence[Sequence[int]],
) -> bytes:
    """16 bytes. ``read(count, offset)`` reads the shard of ``size`` bytes; members lie at ``offsets`` by sample."""
    found = hashlib.blake2b(digest_size=16)
    for at, count in _pieces(size, offsets, sizes):
        found.update(read(count, at))
    return found.digest()


def _pieces(
    size: int, offsets: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]]
) -> Iterator[tuple[int, int]]:
    for starts, lengths in zip(offsets, sizes, strict=True):
        for at, length in zip(starts, lengths, strict=True):
            if size <= WHOLE or length <= SMALL:
                yield from ((at + done, min(READ, length - done)) for done in range(0, length, READ))
            else:
                yield at, PIECE
                yield at + length // 2, PIECE
                yield at + length - PIECE, PIECE
