"""Bytes that cannot be used reject a sample; a bug of a reader stops the run; nothing outlives its parent."""

import inspect
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from photographs import Words, write_shards

import mmvicreg
from mmvicreg.plan.plan import Plan
from mmvicreg.shards.index import open_index
from mmvicreg.stream.evaluation_items import EvaluationItem, RejectedItem, evaluation_items
from mmvicreg.stream.reader import Item, Reader, Sample, decoding
from mmvicreg.stream.sample_reader import ReaderError
from mmvicreg.stream.stream import Stream

NOTHING: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))


@dataclass(frozen=True)
class Number(Reader):
    """The number in a label; ``bug`` makes the reader itself fail, outside of the bytes."""

    bug: bool = False
    limit: int = 10_000

    @property
    def members(self) -> tuple[str, ...]:
        return ("cls",)

    @property
    def max_bytes(self) -> int:
        return self.limit

    @property
    def shape(self) -> tuple[int, ...]:
        return (1,)

    @property
    def dtype(self) -> torch.dtype:
        return torch.int64

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        with decoding("not a label"):
            value = (
                int(float(sample.members["cls"]))
                if b"e" in sample.members["cls"]
                else int(sample.members["cls"])
            )
        if self.bug:
            return Item(torch.tensor([NOTHING["missing"]]))
        return Item(torch.tensor([value]))

    def items(self, sample: Sample) -> list[Item]:
        item = self.read(sample, np.random.default_rng(0))
        return [] if item is None else [item]


def write(path, labels):
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels):
            (path.parent / "label").write_bytes(label)
            tar.add(path.parent / "label", f"{number}.cls")
    return open_index(str(path))


LABELS = {
    b"7": "",
    b"1e999": "not a label: OverflowError",
    b"9" * 5000: "not a label: ValueError",
    b"\xff": "not a label: ",
    b"9" * 20_000: "member too large: cls has 20,000 bytes, Number reads at most 10,000",
}


def test_any_exception_from_bytes_is_a_rejected_sample_with_a_reason(tmp_path):
    index = write(tmp_path / "x.tar", LABELS)
    found = list(evaluation_items(index, {"label": Number()}, threads=1))
    for item, reason in zip(found, LABELS.values(), strict=True):
        assert isinstance(item, RejectedItem if reason else EvaluationItem)
        if isinstance(item, RejectedItem):
            assert item.reason.startswith(reason)
    plan = Plan(index.counts, seed=0, global_batch=5)
    stream = Stream(index, plan, readers={"label": Number()}, stop=1, threads=1, budget=None)
    (batch,) = stream
    assert int(batch.present["label"].sum()) == 1
    assert stream.counts.rejected == {"not a label": 3, "member too large": 1}


def test_a_bug_of_a_reader_stops_the_run_and_is_no_rejected_sample(tmp_path):
    index = write(tmp_path / "x.tar", [b"7", b"8"])
    readers = {"label": Number(bug=True)}
    with pytest.raises(ReaderError, match=r"sample '0'.*raised KeyError: 'missing'.*decoding\("):
        list(evaluation_items(index, readers, threads=1))
    with pytest.raises(ReaderError, match="raised KeyError"):
        list(Stream(index, Plan(index.counts, seed=0, global_batch=2), readers=readers, stop=1, threads=1))


def test_an_oversized_member_is_refused_before_it_is_read(tmp_path):
    size = 2_000_000_000
    info = tarfile.TarInfo("0.cls")
    info.size = size
    with open(tmp_path / "x.tar", "wb") as file:
        file.write(info.tobuf())
        file.truncate(-(-(512 + size) // 512) * 512 + 1024)
    before = peak_memory()
    (found,) = evaluation_items(open_index(str(tmp_path / "x.tar")), {"label": Number()}, threads=1)
    assert isinstance(found, RejectedItem) and "cls has 2,000,000,000 bytes" in found.reason
    assert peak_memory() - before < 100_000_000


def peak_memory():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


ORPHANS = """
import os, sys
from photographs import Words
from mmvicreg.plan.plan import Plan
from mmvicreg.shards.index import open_index
from mmvicreg.stream.stream import Stream

if __name__ == "__main__":
    index = open_index(sys.argv[1])
    plan = Plan(index.counts, seed=0, global_batch=4)
    stream = Stream(index, plan, readers={"text": Words()}, workers=2)
    next(stream)
    print(*stream._workers._pool._processes, flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_worker_processes_end_with_their_parent_after_sigkill(tmp_path):
    write_shards(tmp_path, [8])
    (tmp_path / "train.py").write_text(ORPHANS)
    modules = (inspect.getfile(Words), os.path.dirname(mmvicreg.__file__))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "train.py"), str(tmp_path / "*.tar")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(os.path.dirname(module) for module in modules)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    workers = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and len(workers) == 2
    end = time.monotonic() + 20
    while (left := [pid for pid in workers if os.path.exists(f"/proc/{pid}")]) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left
