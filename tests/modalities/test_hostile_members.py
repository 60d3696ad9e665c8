"""Hostile members: each gets its verdict, in training and in evaluation; mutated ones get some verdict."""

import io
import os
import random
import tarfile
import time

import numpy as np
import pytest
from hostile_members import ABSENT, CORPUS, MODALITIES, USED
from hostile_tars import CORPUS as TARS

from mmvicreg.plan.plan import Plan
from mmvicreg.shards.index import open_index
from mmvicreg.stream.evaluation_items import EvaluationItem, evaluation_items
from mmvicreg.stream.reader import BadSampleError, Sample
from mmvicreg.stream.stream import Stream

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "150"))
"""Mutated members of each modality; 100000 is the long run."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))


def test_the_corpus_is_large():
    assert len(TARS) + sum(map(len, CORPUS.values())) >= 150


@pytest.mark.filterwarnings("default")  # Pillow warns of damage and reads on, as it does for users
@pytest.mark.parametrize("kind", CORPUS)
def test_every_hostile_member_gets_its_verdict(kind, tmp_path):
    cases = CORPUS[kind]
    path = tmp_path / "hostile.tar"
    with tarfile.open(path, "w") as tar:
        for number, (suffix, build, _) in enumerate(cases.values()):
            data = build()
            info = tarfile.TarInfo(f"{number:04d}.{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    index, readers = open_index(str(path)), {kind: MODALITIES[kind].reader()}
    found: dict[int, str] = {}
    for item in evaluation_items(index, readers, threads=1):
        reason = (item.recovered or USED) if isinstance(item, EvaluationItem) else item.reason
        found.setdefault(item.number, reason)
    for number, (name, (_, _, verdict)) in enumerate(cases.items()):
        assert found.get(number, ABSENT).startswith(verdict), (name, found.get(number, ABSENT))
    stream = Stream(
        index,
        Plan(index.counts, seed=0, global_batch=len(cases)),
        readers=readers,
        stop=1,
        threads=1,
        budget=None,
    )
    (batch,) = stream
    rejected = sum(stream.counts.rejected.values())
    assert rejected == sum(not item for item in map(int, batch.present[kind])) - sum(
        found.get(number, ABSENT) == ABSENT for number in range(len(cases))
    )


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Bits flipped, stretches zeroed, filled, taken out, repeated or cut."""
    out = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5, 30])):
        at, span = draw.randrange(len(out)), draw.choice([1, 1, 4, 64, 512])
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


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", CORPUS)
def test_mutated_members_get_a_verdict_and_the_declared_shape(kind):
    reader = MODALITIES[kind].reader()
    seeds = [
        (suffix, data) for suffix, build, _ in CORPUS[kind].values() if 0 < len(data := build()) < 20_000
    ]
    slowest = 0.0
    for number in range(ROUNDS):
        draw = random.Random(f"{kind} {number}")
        suffix, data = draw.choice(seeds)
        sample = Sample("x", number, {suffix: mutated(data, draw)})
        begun = time.process_time()
        try:
            items = reader.items(sample)
            one = reader.read(sample, np.random.default_rng(number))
        except BadSampleError as error:
            assert str(error), number
            continue
        finally:
            slowest = max(slowest, time.process_time() - begun)
        for item in [*items, *([one] if one is not None else [])]:
            assert tuple(item.value.shape) == reader.shape and item.value.dtype == reader.dtype, number
            assert kind in ("text", "table") or bool(item.value.isfinite().all()), number
    assert slowest < 20
