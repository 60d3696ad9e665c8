"""A solve is the same on any number of processes, and after it was killed while it encoded."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy
from safetensors.torch import load_file
from test_solve import GRID, RECIPE, config

import mmvicreg as mm
from mmvicreg.solvers.solve import EXACT
from mmvicreg.testing.processes import pool


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a solved run."""
    return load_file(next((folder / "checkpoints").glob("step-*")) / "weights.safetensors")


def solve(shards: str, held_out: str, out: str, kernel: str) -> None:
    """On every process: solve a toy run of its own run directory."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    maps = {name: mm.FeatureMap(("standardize",), kernel, 24) for name in "ab"}  # type: ignore[arg-type]
    mm.solve(replace(config(shards, held_out, Path(out)), features=maps, grid=GRID))


@pytest.mark.parametrize("kernel", ["none", "nystrom"])
@pytest.mark.slow
def test_one_two_and_three_processes_give_the_same_heads(kernel: str, tmp_path: Path) -> None:
    shards = toy.write_shards(tmp_path / "shards", missing=7)
    held_out = toy.write_shards(tmp_path / "held_out", shards=1, seed=0, missing=0)
    for size in (1, 2, 3):
        pool(size).run(solve, shards, held_out, str(tmp_path / f"{size}"), kernel)
    solved, stored = load_file(tmp_path / "1" / EXACT), weights(tmp_path / "1")
    for size in (2, 3):
        other = load_file(tmp_path / f"{size}" / EXACT)
        assert solved.keys() == other.keys()
        for name, value in solved.items():
            assert value.dtype == torch.float64
            # The features are standardized, so that the mean of a head is 0 up to rounding: its scale is 1.
            scale = max(1.0, float(value.abs().max()))
            assert float((other[name] - value).abs().max()) <= 1e-9 * scale, name
        for name, value in weights(tmp_path / f"{size}").items():
            # Stored in fp32, where the last digit may be rounded the other way.
            scale = 1e-9 * float(value.abs().max())
            torch.testing.assert_close(stored[name], value, rtol=3e-7, atol=scale)


KILLED = """
import sys; sys.path[:0] = sys.argv[1].split(':')
import os, signal, test_solve as t
from pathlib import Path
import mmvicreg.evaluation.embed as e
inner, left = e.write_block, int(sys.argv[5])
def counted(part, block):
    global left
    inner(part, block)
    left -= 1
    if left == 0:
        with open(part / 'a.h.f32', 'ab') as file:
            file.write(b'torn block')
        os.kill(os.getpid(), signal.SIGKILL)
e.write_block = counted
e.embed_samples.__kwdefaults__['block_size'] = 16
import mmvicreg.solvers.solve as s
s.solve(t.config(sys.argv[2], sys.argv[3], Path(sys.argv[4])))
print('blocks written', int(sys.argv[5]) - left)
"""


@pytest.mark.slow
def test_a_pass_killed_while_it_encodes_keeps_its_blocks_and_ends_in_the_same_heads(tmp_path: Path) -> None:
    shards = toy.write_shards(tmp_path / "shards", missing=7)
    held_out = toy.write_shards(tmp_path / "held_out", shards=1, seed=0, missing=0)
    folders = ":".join([str(Path(__file__).parent), str(RECIPE.parent)])

    def run(out: Path, blocks: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", KILLED, folders, shards, held_out, str(out), str(blocks)],
            env={**os.environ, "PYTHONPATH": str(Path(mm.__file__).parents[1])},
            capture_output=True,
            text=True,
        )

    whole = run(tmp_path / "whole", 1000)
    assert whole.returncode == 0, whole.stderr[-2000:]
    total = int(whole.stdout.split()[-1])
    assert total >= 5
    for _ in range(2):
        killed = run(tmp_path / "killed", 2)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    last = run(tmp_path / "killed", 1000)
    assert last.returncode == 0, last.stderr[-2000:]
    assert int(last.stdout.split()[-1]) == total - 4  # two blocks of each killed pass were kept
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_directory_that_another_process_solves_in_is_refused(tmp_path: Path) -> None:
    shards = toy.write_shards(tmp_path / "shards")
    first = config(shards, shards, tmp_path / "run")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from mmvicreg.files import lock\n"
            "Path(sys.argv[1]).mkdir()\n"
            "with lock(Path(sys.argv[1]), purpose='solving'): print('held', flush=True); time.sleep(60)",
            str(tmp_path / "run"),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(mm.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(OSError, match="is in use"):
            mm.solve(first)
    finally:
        holder.kill()
        holder.communicate()
    time.sleep(0.1)
    mm.solve(first)
