"""Commands that work on one run at the same time, and on a run that they may only read."""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from command_processes import Disturbance, begin
from pictured_run import SHARDS
from safetensors.numpy import load_file

NOBODY = 65_534


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The first forty images and captions of the demo's held-out ones."""
    path = tmp_path_factory.mktemp("shards") / "concepts-000000.tar"
    with tarfile.open(SHARDS.replace("*", "000000")) as source, tarfile.open(path, "w") as target:
        for member in [found for _, found in zip(range(80), source, strict=False)]:
            target.addfile(member, source.extractfile(member))
    return str(path)


@pytest.fixture
def run(pictured_run, tmp_path):
    """A copy of the run without kept embeddings, so that every command computes them."""
    shutil.copytree(pictured_run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("embeddings"))
    return tmp_path / "run"


def commands(run: Path, shards: str, out: Path, number: int) -> dict[str, list[str]]:
    scores, rows = str(out / f"scores-{number}.json"), str(out / f"rows-{number}.safetensors")
    data = ["--data", f"concepts={shards}", "--device", "cpu"]
    return {
        scores: ["evaluate", str(run), *data, "--out", scores],
        rows: ["embed", str(run), shards, rows, "--device", "cpu"],
    }


@pytest.mark.slow
def test_two_evaluations_and_two_embeddings_of_one_run_at_once_give_what_one_gives(
    run, pictured_run, shards, tmp_path
):
    both = {
        **commands(run, shards, tmp_path, 0),
        **commands(run, shards, tmp_path, 1),
    }
    started = [begin(command, tmp_path) for command in both.values()]
    assert [each.result()[0] for each in started] == [0, 0, 0, 0]
    (store,) = [path for path in (run / "embeddings").iterdir() if not path.name.startswith(".")]
    assert os.listdir(run / "embeddings") == [store.name]  # nobody's unfinished folder is left
    alone = commands(pictured_run.folder, shards, tmp_path, 2)
    assert [begin(command, tmp_path / "alone").result()[0] for command in alone.values()] == [0, 0]
    found = [[Path(name) for name in commands(run, shards, tmp_path, n)] for n in range(3)]
    for scores, rows in found[:2]:
        assert json.loads(scores.read_text())["scores"] == json.loads(found[2][0].read_text())["scores"]
        for name, value in load_file(found[2][1]).items():
            np.testing.assert_array_equal(load_file(rows)[name], value)


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_a_run_that_may_only_be_read_is_evaluated_and_embedded_elsewhere(run, shards, tmp_path):
    """A read-only mount where this user may mount; else another user, where this is root; else permissions."""
    before = contents(run)
    out = tmp_path / "elsewhere"
    out.mkdir()
    mounted = (
        subprocess.run(["mount", "--bind", "-o", "ro", str(run), str(run)], capture_output=True).returncode
        == 0
    )
    user = NOBODY if not mounted and os.geteuid() == 0 else 0
    try:
        for path in [] if mounted else [run, *(path for path in run.rglob("*") if path.is_dir())]:
            path.chmod(0o555)
        if user:
            out.chmod(0o777)
            for parent in (tmp_path, *list(tmp_path.parents)[:2]):
                parent.chmod(0o755)
        for command in commands(run, shards, out, 0).values():
            assert begin(command, out, Disturbance(user=user)).result()[0] == 0
        without_out = next(iter(commands(run, shards, out, 0).values()))[:-2]
        assert begin(without_out, out, Disturbance(user=user)).result()[0] == 1  # a message, no traceback
    finally:
        if mounted:
            subprocess.run(["umount", str(run)], check=True)
        for path in [] if mounted else [run, *(path for path in run.rglob("*") if path.is_dir())]:
            path.chmod(0o755)
    assert contents(run) == before
    assert (out / "scores-0.json").is_file() and (out / "rows-0.safetensors").is_file()
    assert list((out / "cache" / "embeddings").iterdir())
