"""Memory of batches is used again when nobody looks at it any more, and never before."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photographs import Photo, Words, write_shards

from mmvicreg.plan.plan import Plan
from mmvicreg.shards.index import open_index
from mmvicreg.stream.buffers import Buffers, Sender
from mmvicreg.stream.stream import Stream


@dataclass(frozen=True)
class Shaped(Words):
    """Declares any shape and dtype."""

    sizes: tuple[int, ...] = ()
    kind: torch.dtype = torch.int64

    @property
    def shape(self) -> tuple[int, ...]:
        return self.sizes

    @property
    def dtype(self) -> torch.dtype:
        return self.kind


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("sizes", [(), (5,), (3, 6, 4), (1, 6, 4), (2, 3, 4, 5)])
def test_buffers_have_the_declared_shape_dtype_and_layout(sizes: tuple[int, ...], kind: torch.dtype) -> None:
    buffers = Buffers({"x": Shaped(sizes=sizes, kind=kind)}, 7, keep=2, pin=False)
    for _ in range(3):
        x = buffers.take()["x"]
        assert x.shape == (7, *sizes) and x.dtype == kind
        x.fill_(1)
        assert x.float().sum() == x.numel()
        if sizes == (3, 6, 4):
            assert x.is_contiguous(memory_format=torch.channels_last)
        else:
            assert x.is_contiguous()


def address(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()


def test_memory_is_free_when_the_last_user_is_gone() -> None:
    buffers = Buffers({"x": Photo(side=8)}, 4, keep=2, pin=False)
    users = {
        "the tensor": lambda x: x,
        "a view": lambda x: x[1:3],
        "a view of a view": lambda x: x[1:3].permute(0, 2, 3, 1)[0],
        "an array": lambda x: x.numpy(),
        "an array of a view": lambda x: x[0].numpy()[1:],
        "a tensor of an array": lambda x: torch.from_numpy(x.numpy()),
        "its storage": lambda x: x.untyped_storage(),
        "a detached alias": lambda x: x.detach(),
    }
    for name, use in users.items():
        first = buffers.take()["x"]
        where, user = address(first), use(first)
        del first
        other = buffers.take()["x"]
        assert address(other) != where, name
        del user
        assert address(buffers.take()["x"]) == where, name
        del other


def test_no_more_than_asked_for_is_kept() -> None:
    buffers = Buffers({"x": Photo(side=8)}, 4, keep=2, pin=False)
    held = [buffers.take() for _ in range(6)]
    before = {address(each["x"]) for each in held}
    del held
    assert len(buffers._free["x"]) == 2
    assert {address(x) for x in [buffers.take()["x"] for _ in range(2)]} <= before


@pytest.fixture(scope="module")
def stream_of(tmp_path_factory: pytest.TempPathFactory) -> object:
    index = open_index(write_shards(tmp_path_factory.mktemp("shards"), [40, 24]))

    def made(**options: Any) -> Stream:
        plan = Plan(index.counts, seed=1, global_batch=8)
        return Stream(index, plan, readers={"image": Photo(), "text": Words()}, stop=40, **options)

    return made


def test_batches_that_are_kept_keep_their_values(stream_of, tmp_path: Path) -> None:
    """Every batch is kept, in whole or in part, and equals what a loader that was left alone read."""
    alone = [{view: x.clone() for view, x in batch.inputs.items()} for batch in stream_of()]
    kept = []
    for number, batch in enumerate(stream_of(threads=3, prefetch=4)):
        if number % 3 == 0:
            kept.append((number, "image", slice(None), batch.inputs["image"]))
        elif number % 3 == 1:
            kept.append((number, "image", slice(2, 5), batch.inputs["image"][2:5]))
        else:
            kept.append((number, "text", slice(None), batch.inputs["text"].numpy()))
        del batch
    assert len(kept) == 40
    for number, view, rows, value in kept:
        assert np.array_equal(alone[number][view][rows].numpy(), np.asarray(value)), number


def test_a_loop_that_lets_go_uses_few_buffers(stream_of) -> None:
    gc.disable()  # it does not take a collection of cycles
    try:
        places = set()
        for batch in stream_of(prefetch=2):
            places.add(address(batch.inputs["image"]))
            del batch
    finally:
        gc.enable()
    assert len(places) <= 5


@pytest.mark.gpu
def test_inputs_arrive_on_the_gpu_while_it_computes(stream_of) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    for ours, theirs in zip(stream_of(), stream_of(device=device), strict=True):
        for view, x in theirs.inputs.items():
            assert x.device == device and torch.equal(x.cpu(), ours.inputs[view])
            assert x.stride() == ours.inputs[view].stride()
    sender, x = Sender(device), torch.ones(64, 3, 224, 224, dtype=torch.uint8, pin_memory=True)
    torch.cuda._sleep(10**9)  # about half a second of the current stream
    busy = torch.cuda.Event()
    busy.record()
    sent = sender.send({"x": x})
    sender._stream.synchronize()
    assert not busy.query() and int(sent["x"].sum(dtype=torch.int64)) == x.numel()
