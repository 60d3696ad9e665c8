"""Stream: a batch depends on (index, plan, readers, step) only; bad samples are data; nothing hangs."""

import hashlib
import json
import logging
import os
import re
import signal
import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from photographs import Photo, Words, encoded, write_shards
from webdataset import TarWriter

from mmvicreg import Item
from mmvicreg.plan.plan import Plan
from mmvicreg.shards.index import open_index
from mmvicreg.shards.tar import BadShardError
from mmvicreg.stream.evaluation_items import EvaluationItem, RejectedItem, evaluation_items
from mmvicreg.stream.ledger import read_ledger
from mmvicreg.stream.sample_counts import Budget, TooManyRejectedError
from mmvicreg.stream.sample_reader import ReaderError
from mmvicreg.stream.stream import Stream
from mmvicreg.stream.workers import WorkerLostError

READERS = {"image": Photo(), "text": Words()}

NOTHING: dict[str, Any] = {}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return open_index(write_shards(tmp_path_factory.mktemp("shards"), [17, 30, 9, 24]))


def digest(batch, rows=slice(None)):
    pixels = batch.inputs["image"][rows].contiguous().numpy().tobytes()
    return batch.keys[rows], hashlib.sha256(pixels + batch.inputs["text"][rows].numpy().tobytes()).hexdigest()


def run(index, *, batch=16, start=0, stop=12, world=1, threads=2, **options):
    """{step: digests of the global batch's halves}, so that runs with other ranks can be compared."""
    found: dict[int, list[Any]] = {}
    for rank in range(world):
        plan = Plan(index.counts, seed=1, global_batch=batch, lanes=4, window=8)
        for b in Stream(
            index,
            plan,
            readers=READERS,
            start=start,
            stop=stop,
            rank=rank,
            world=world,
            threads=threads,
            **options,
        ):
            half = batch // 4
            found.setdefault(b.step, []).extend(
                digest(b, slice(i, i + half)) for i in range(0, len(b.keys), half)
            )
    return found


def test_batches_equal_over_threads_ranks_prefetch_and_start(index):
    whole = run(index)
    assert len(whole) == 12
    assert run(index, threads=1, prefetch=0) == whole
    assert run(index, threads=5, prefetch=6) == whole
    assert run(index, world=2) == whole
    assert run(index, world=4) == whole
    assert run(index, start=7) == {step: whole[step] for step in range(7, 12)}


def test_worker_processes_give_the_same_batches_and_errors(index):
    whole = run(index, stop=3)
    assert run(index, stop=3, workers=2) == whole
    plan = Plan(index.counts, seed=1, global_batch=16)
    with pytest.raises(ReaderError, match=FAILURES["shape"]):
        list(Stream(index, plan, readers={"text": Faulty(how="shape")}, stop=5, workers=1))
    with pytest.raises(WorkerLostError, match="a worker process died"):
        list(Stream(index, plan, readers={"text": Faulty(how="die")}, stop=5, workers=1))


def test_shapes_and_values(index):
    plan = Plan(index.counts, seed=1, global_batch=8)
    batch = next(Stream(index, plan, readers=READERS))
    assert batch.inputs["image"].shape == (8, 3, 16, 16) and batch.inputs["image"].dtype == torch.uint8
    assert batch.inputs["text"].shape == (8, 24) and batch.inputs["text"].dtype == torch.int64
    assert all(mask.all() and mask.dtype == torch.bool for mask in batch.present.values())
    for row, key in enumerate(batch.keys):
        assert bytes(batch.inputs["text"][row].tolist()).rstrip(b"\0").decode() == f"photograph {int(key)}"
        assert int(key) == batch.numbers[row]


def test_randomness_changes_with_the_epoch_and_not_with_the_step(index):
    plan = Plan(index.counts, seed=1, global_batch=80)
    first, second = Stream(index, plan, readers=READERS, stop=2)
    sort = [b.inputs["image"][torch.argsort(b.numbers)] for b in (first, second)]
    assert (first.epoch, second.epoch) == (0, 1) and sorted(first.keys) == sorted(second.keys)
    assert not torch.equal(*sort)


def bad_shards(folder):
    """20 samples: one without image, one without text, one broken image, one recovered, one empty caption."""
    hole = bytearray(encoded(0, width=320, height=256))
    hole[len(hole) // 2 : len(hole) // 2 + 400] = bytes(400)
    special = {
        3: {"txt": b"no image"},
        5: {"jpg": encoded(5)},
        8: {"jpg": b"<html>", "txt": b"broken"},
        11: {"jpg": bytes(hole), "txt": b"hole"},
        14: {"jpg": encoded(14), "txt": b"  "},
    }
    path = str(folder / "bad-0.tar")
    with TarWriter(path) as writer:
        for i in range(20):
            writer.write(
                {"__key__": f"{i:02d}", **special.get(i, {"jpg": encoded(i), "txt": f"photo {i}".encode()})}
            )
    return open_index(path)


def test_absent_and_rejected_views_are_masked_zeroed_and_told(tmp_path):
    index = bad_shards(tmp_path)
    plan = Plan(index.counts, seed=1, global_batch=20)
    loader = Stream(index, plan, readers=READERS, stop=1, ledger=str(tmp_path / "run"))
    (batch,) = loader
    absent = {
        view: {int(batch.keys[i]) for i in range(20) if not mask[i]} for view, mask in batch.present.items()
    }
    assert absent == {"image": {3, 8}, "text": {5, 14}}
    for view, mask in batch.present.items():
        assert (batch.inputs[view][~mask] == 0).all()
    told = {(f.key, f.view, f.verdict, f.kind) for f in read_ledger(str(tmp_path / "run"))}
    assert told == {
        ("08", "image", "rejected", "not a picture"),
        ("11", "image", "recovered", "damaged JPEG"),
        ("14", "text", "rejected", "empty"),
    }
    counts = loader.counts
    assert (counts.seen, counts.recovered, counts.rejected) == (20, 1, {"not a picture": 1, "empty": 1})
    assert counts.missing == {"image": 2, "text": 2} and counts.shards == {"bad-0.tar": 2}
    assert counts.plus(counts).rejected == {"not a picture": 2, "empty": 2}


def test_substitute_is_the_next_row_on_every_layout(tmp_path):
    index = bad_shards(tmp_path)
    found = []
    for threads in (1, 3):
        plan = Plan(index.counts, seed=1, global_batch=20)
        loader = Stream(
            index,
            plan,
            readers=READERS,
            stop=1,
            threads=threads,
            substitutes=2,
            ledger=str(tmp_path / f"run{threads}"),
        )
        (batch,) = loader
        found.append(
            (digest(batch), [(f.key, f.substitute) for f in read_ledger(str(tmp_path / f"run{threads}"))])
        )
        assert sorted(batch.keys) == sorted(
            [f"{i:02d}" for i in range(20) if i not in (8, 14)] + ["09", "15"]
        )
    assert found[0] == found[1] and ("08", "09") in found[0][1] and ("14", "15") in found[0][1]


def test_ledger_of_a_repeated_stretch_is_read_once(tmp_path):
    index = bad_shards(tmp_path)
    for start, world in ((0, 1), (2, 2), (1, 4)):
        for rank in range(world):
            plan = Plan(index.counts, seed=1, global_batch=4)
            folder = str(tmp_path / "run")
            list(
                Stream(
                    index, plan, readers=READERS, start=start, stop=5, rank=rank, world=world, ledger=folder
                )
            )
    with open(tmp_path / "run" / "ledger-00000.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 4, "ep')
    found = read_ledger(str(tmp_path / "run"))
    assert [f.key for f in sorted(found, key=lambda f: f.key)] == ["08", "11", "14"]
    assert (
        json.loads((tmp_path / "run" / "ledger-00000.jsonl").read_text().splitlines()[0])["shard"]
        == "bad-0.tar"
    )


def test_budget_stops_the_run_and_names_the_worst(tmp_path):
    index = bad_shards(tmp_path)
    plan = Plan(index.counts, seed=1, global_batch=4)
    with pytest.raises(TooManyRejectedError, match=r"of 40 samples .*empty.*'bad-0\.tar': 4"):
        list(Stream(index, plan, readers=READERS, stop=50, budget=Budget(max_fraction=0.05, after=40)))


@dataclass(frozen=True)
class Faulty(Words):
    """Fails in a chosen way at sample 000040."""

    how: str = ""

    def read(self, sample, generator):
        if sample.key != "000040":
            return super().read(sample, generator)
        if self.how == "raise":
            return NOTHING["missing"]
        if self.how == "shape":
            return Item(torch.zeros(25, dtype=torch.int64))
        if self.how == "dtype":
            return Item(torch.zeros(24))
        if self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "slow":
            time.sleep(0.5)
            return super().read(sample, generator)
        return torch.zeros(24)

    def items(self, sample):
        return [self.read(sample, None)]


FAILURES = {
    "raise": r"view 'text', reader Faulty, sample '000040' \(number 40\) of .*000001.tar: it raised KeyError",
    "shape": r"sample '000040' .* found \(25,\) torch.int64, expected \(24,\) torch.int64",
    "dtype": r"sample '000040' .* found \(24,\) torch.float32, expected \(24,\) torch.int64",
    "type": r"sample '000040' .* found Tensor, expected an Item",
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failing_reader_ends_the_run_by_name(index, how):
    plan = Plan(index.counts, seed=1, global_batch=16)
    with pytest.raises(ReaderError, match=FAILURES[how]):
        list(Stream(index, plan, readers={"image": Photo(), "text": Faulty(how=how)}, stop=5))
    with pytest.raises(ReaderError, match=FAILURES[how]):
        list(evaluation_items(index, {"text": Faulty(how=how)}))


def test_a_long_wait_says_what_it_waits_for(index, caplog):
    plan = Plan(index.counts, seed=1, global_batch=80)
    with caplog.at_level(logging.WARNING, "mmvicreg.stream.stream"):
        list(Stream(index, plan, readers={"text": Faulty(how="slow")}, stop=1, patience=0.1))
    assert re.search(r"reads sample 23 of .*train-000001\.tar for", caplog.text)


def test_wrong_arguments_are_named(index):
    plan = Plan(index.counts, seed=1, global_batch=16)
    with pytest.raises(KeyError, match="view 'sound' reads flac, ogg; the shards have only jpg, txt"):
        Stream(index, plan, readers={"sound": Sound()})
    with pytest.raises(ValueError, match="rank 0 of 3 with a global batch of 16"):
        Stream(index, plan, readers=READERS, rank=0, world=3)
    with pytest.raises(ValueError, match=r"Plan\(index.counts"):
        Stream(index, Plan([80], seed=1, global_batch=16), readers=READERS)
    with pytest.raises(ValueError, match="the index has 0 to 80"):
        next(evaluation_items(index, READERS, stop=81))


class Sound(Words):
    members = ("flac", "ogg")


def test_torch_keeps_its_threads(index):
    before = torch.get_num_threads()
    list(Stream(index, Plan(index.counts, seed=1, global_batch=16), readers=READERS, stop=1, threads=3))
    assert torch.get_num_threads() == before


def test_a_shard_cut_short_during_the_run_stops_it(tmp_path):
    paths = write_shards(tmp_path, [30, 30])
    index = open_index(paths)
    plan = Plan(index.counts, seed=1, global_batch=4)
    loader = Stream(index, plan, readers=READERS, stop=15, prefetch=0)
    next(loader)
    with open(paths[0], "r+b") as file:
        file.truncate(3000)
    with pytest.raises(BadShardError, match=r"it changed after it was indexed|it was cut short"):
        list(loader)


def test_every_item_in_index_order_over_any_split(tmp_path):
    index = bad_shards(tmp_path)
    whole = list(evaluation_items(index, READERS))
    parts = [
        item
        for r in range(3)
        for item in evaluation_items(index, READERS, start=20 * r // 3, stop=20 * (r + 1) // 3)
    ]
    names = [(i.number, i.key, i.view) for i in whole]
    assert names == [(i.number, i.key, i.view) for i in parts] and names == sorted(names)
    texts = [
        i.identity for i in whole if isinstance(i, EvaluationItem) and i.view == "text" and i.number == 2
    ]
    assert texts == ["photo 2", "2"]
    assert [(i.number, i.view) for i in whole if isinstance(i, RejectedItem)] == [(8, "image"), (14, "text")]
    assert sum(isinstance(i, EvaluationItem) and i.view == "image" for i in whole) == 18
    assert {i.number for i in whole} == set(range(20))
