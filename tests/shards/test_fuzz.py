"""Mutated tars and pictures end in a verdict: no crash, no hang, no unbounded memory.

The longer run: ``FUZZ_ROUNDS=20000 python -m pytest tests/test_fuzz.py``; its result is in docs/log.md.
"""

import io
import os
import random
import resource
import time

import numpy as np
import pytest
from photographs import encoded
from webdataset import TarWriter

from mmvicreg.modalities.decoding.pixels import decode
from mmvicreg.shards.index_file import pack_table, unpack_table
from mmvicreg.shards.tar import KINDS, BadShardError, scan
from mmvicreg.stream.reader import BadSampleError
from mmvicreg.stream.sequential import sequential_samples

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "300"))


def mutated(data: bytes, draw: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5, 30])):
        at = draw.randrange(len(out))
        span = draw.choice([1, 1, 4, 64, 512, 3000])
        how = draw.randrange(6)
        if how == 0:
            out[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            out[at : at + span] = bytes(len(out[at : at + span]))
        elif how == 2:
            out[at : at + span] = draw.randbytes(len(out[at : at + span]))
        elif how == 3:
            del out[at : at + span]
        elif how == 4:
            out[at:at] = out[at : at + span]
        else:
            del out[max(1, at) :]
        out = out or bytearray(b"\0")
    return bytes(out)


def repaired(data: bytes, draw: random.Random) -> bytes:
    """Make one damaged header's checksum right again, so that the mutation is looked at, not only noticed."""
    out = bytearray(data)
    at = 512 * draw.randrange(max(1, len(out) // 512))
    header = out[at : at + 512]
    if len(header) == 512:
        total = sum(header[:148]) + 256 + sum(header[156:])
        out[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(out)


def reading(data):
    """A reader of ``data``: the bytes at an offset."""
    return lambda count, at: data[at : at + count]


def test_mutated_tars_end_in_a_verdict():
    buffer = io.BytesIO()
    with TarWriter(buffer) as writer:
        for i in range(6):
            writer.write({"__key__": f"{'long' * 40 * (i % 2)}{i}", "jpg": encoded(i), "txt": b"x"})
    whole = buffer.getvalue()
    slowest = 0.0
    for number in range(ROUNDS):
        draw = random.Random(number)
        data = mutated(whole, draw)
        data = repaired(data, draw) if draw.random() < 0.5 else data
        begun = time.process_time()
        found = scan(reading(data), len(data), shard="x.tar")
        assert all(p.kind in KINDS for p in found.problems), number
        assert unpack_table(pack_table(found)).keys == tuple(found.keys), number
        for row in zip(found.offsets, found.sizes, strict=True):
            assert all(0 <= o and o + n <= len(data) for o, n in zip(*row, strict=True)), number
        try:
            list(sequential_samples([("x", io.BytesIO(data))]))
        except BadShardError:
            pass
        slowest = max(slowest, time.process_time() - begun)
    assert slowest < 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_mutated_pictures_end_in_a_verdict(format):
    whole = encoded(3, format=format, width=96)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest = 0.0
    for number in range(ROUNDS):
        data = mutated(whole, random.Random(number))
        begun = time.process_time()
        try:
            array = decode(data, max_pixels=4_000_000).array
            assert array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3, number
            assert array.shape[0] * array.shape[1] <= 4_000_000, number
        except BadSampleError:
            pass
        slowest = max(slowest, time.process_time() - begun)
    assert slowest < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
