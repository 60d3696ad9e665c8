"""Modalities that are missing, and readers that are wrong, through the whole path on real processes."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
import toy
import toy_missing
from safetensors.torch import load_file
from towers_small import text_folder

import mmvicreg as mm
from mmvicreg.stream.reader import Item, Sample
from mmvicreg.stream.sample_reader import ReaderError

ROOT = Path(__file__).parents[2]


def train(folder: Path, out: str, *options: str, processes: int = 1) -> Path:
    """The toy run as a user starts it."""
    launcher: tuple[str, ...] = (sys.executable,)
    if processes > 1:
        launcher = ("accelerate", "launch", "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1",
                    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")  # fmt: skip
    command = (*launcher, toy_missing.__file__, "--train", str(folder / "train-*.tar"),
               "--words.encoder", f"transformers/{text_folder()}", "--out", str(folder / out), *options)  # fmt: skip
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if processes == 1:
        done = forked.run(command, cwd=folder, environment=environment)
    else:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    states = [json.loads(path.read_text()) for path in (folder / out).glob("checkpoints/*/state.json")]
    assert {state["processes"] for state in states} == {processes}
    return folder / out


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in found if "terms" in line]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same run on one process and on two."""
    folder = tmp_path_factory.mktemp("missing")
    toy_missing.write_shards(folder)
    options = ("--batch-size", "16", "--epochs", "2", "--checkpoint-every", "1", "--keep-checkpoints", "99")
    return train(folder, "one", *options), train(folder, "two", *options, processes=2)


@pytest.mark.slow
def test_with_a_third_of_everything_missing_two_processes_equal_one(runs: tuple[Path, Path]) -> None:
    one, two = map(lines, runs)
    assert len(one) == len(two) == 12
    for a, b in zip(one, two, strict=True):
        assert all(np.isfinite(value) for value in a["terms"].values())
        assert a["present"] == b["present"]
        for name, value in a["terms"].items():
            assert b["terms"][name] == pytest.approx(value, rel=1e-3, abs=1e-5), (a["step"], name)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=3e-3)


@pytest.mark.slow
def test_the_log_counts_present_rows_of_all_processes(runs: tuple[Path, Path]) -> None:
    for found in map(lines, runs):
        counts = {view: sum(line["present"][view] for line in found) for view in found[0]["present"]}
        assert counts["series"] == 2 * 5
        assert all(2 * 96 * 0.55 < counts[view] < 2 * 96 * 0.85 for view in ("a", "b", "words"))
        assert min(line["present"]["series"] for line in found) == 0


def weights(run: Path, number: int) -> dict[str, torch.Tensor]:
    return load_file(sorted((run / "checkpoints").glob("step-*"))[number] / "weights.safetensors")


@pytest.mark.slow
def test_every_weight_that_should_move_moves(runs: tuple[Path, Path]) -> None:
    for run in runs:
        first, last = weights(run, 0), weights(run, -1)
        still = {name for name in first if torch.equal(first[name], last[name])}
        # BERT's own pooler gives nothing to the mean of its states; integers count rows, not weights.
        assert all("pooler" in name or not first[name].is_floating_point() for name in still), still


@pytest.mark.slow
def test_one_process_and_two_end_with_the_same_weights(runs: tuple[Path, Path]) -> None:
    one, two = (weights(run, -1) for run in runs)
    # A bias that a batch normalization takes away again has a gradient of rounding errors, of which Adam makes full
    # steps; the running means follow it.
    free = ("mix.0.bias", "encoder.norm.bias", "layers.13.bias", "0.output.LayerNorm.bias", "running_mean")
    for name, value in one.items():
        if name.endswith(free):
            continue
        torch.testing.assert_close(two[name], value, rtol=2e-2, atol=2e-3, msg=name)


@dataclass(frozen=True)
class WrongReader(toy.BytesReader):
    """Reads as declared, but for one sample."""

    how: str = "dtype"

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        item = super().read(sample, generator)
        if item is None or sample.number != 41:
            return item
        if self.how == "dtype":
            return Item(item.value.double())
        if self.how == "ragged":
            return Item(item.value[:5])
        raise KeyError("no such column")


@dataclass(frozen=True)
class Wrong(toy.Numbers):
    """Numbers with a wrong reader."""

    how: str = "dtype"

    def reader(self) -> toy.BytesReader:
        """One that is wrong about sample 41."""
        return WrongReader(self.suffix, how=self.how)


@dataclass(frozen=True)
class WrongConfig(toy.Config):
    """The second modality is wrong."""

    b: Wrong = Wrong("b.npy")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("dtype", r"found \(12,\) torch.float64, expected \(12,\) torch.float32"),
        ("ragged", r"found \(5,\) torch.float32, expected \(12,\) torch.float32"),
        ("raising", "it raised KeyError: 'no such column'"),
    ],
)
def test_a_wrong_reader_stops_the_run_with_its_name_the_sample_and_what_was_expected(
    how: str, expected: str, tmp_path: Path
) -> None:
    shards = toy.write_shards(tmp_path, missing=0)
    config = WrongConfig(train=shards, out=str(tmp_path / "run"), b=Wrong("b.npy", how=how))
    with pytest.raises(ReaderError, match="view 'b', reader WrongReader, sample 's00041'.*" + expected):
        mm.train(config, toy.objective)
