"""Train the toy recipe on the gloo processes of a pool, and compare two runs within rounding."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from interruption import Interrupted, interrupt_at
from safetensors.torch import load_file

import mmvicreg as mm
from mmvicreg.runs.run import read_log


def train(config: toy.Config, stop: int | None = None) -> int:
    """On every process: a run, whole or interrupted at a step; the steps done, or -1."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    if stop is None:
        return mm.train(config, toy.objective).step
    try:
        mm.train(config, lambda config: interrupt_at(toy.objective(config), stop, unplug))
    except Interrupted:
        return -1
    return 0


def unplug() -> None:
    raise Interrupted


def plain(shards: str, out: Path, **fields: Any) -> toy.Config:
    """Without dropout, whose masks differ between numbers of processes."""
    a, b = (toy.Numbers(f"{name}.npy", dropout=0.0) for name in "ab")
    given: dict[str, Any] = {"train": shards, "out": str(out), "a": a, "b": b}
    return toy.Config(**given | fields)


def assert_close(a: Path, b: Path) -> None:
    """Losses of every step to 1e-4, final weights to 1e-3 of their size; the same samples seen."""
    one, other = read_log(a), read_log(b)
    assert [line["step"] for line in one] == [line["step"] for line in other]
    for left, right in zip(one, other, strict=True):
        assert left["samples"] == right["samples"] and left["present"] == right["present"]
        assert right["terms"] == pytest.approx(left["terms"], rel=1e-4, abs=1e-5)
        assert right["gradient_norms"] == pytest.approx(left["gradient_norms"], rel=1e-3)
    weights = [load_file(folder / "checkpoints/step-00000012/weights.safetensors") for folder in (a, b)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
