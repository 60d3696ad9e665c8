"""Options that would be ignored or make no run are refused by name: of the launcher, out of range, or misspelled."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy

import mmvicreg as mm
from mmvicreg.runs.options import GuardConfig, OptimizerConfig, StreamConfig, ValidationConfig
from mmvicreg.stream.reader import Item, Sample
from mmvicreg.training.accelerator import check_launcher
from mmvicreg.training.data import AbsentViewError


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy.write_shards(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "--gradient-cache-size"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "--precision bf16"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "mixed_precision to fp8"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "--compile"),
        ({"ACCELERATE_USE_FSDP": "true"}, "--parallel fsdp"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "ACCELERATE_USE_MEGATRON_LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "ACCELERATE_USE_PARALLELISM_CONFIG"),
        ({"ACCELERATE_GRADIENT_CLIPPING": "1.0"}, "--optimizer.max-gradient-norm"),
        ({"ACCELERATE_DOWNCAST_BF16": "true"}, "--precision bf16"),
    ],
)
def test_launcher_options_that_would_be_ignored_are_refused(variables: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError) as refused:
        check_launcher(mm.TrainConfig(), variables)
    assert words in str(refused.value)


def test_launcher_options_that_agree_with_the_recipe_are_accepted() -> None:
    plain = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}
    check_launcher(mm.TrainConfig(), plain | {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"})
    check_launcher(mm.TrainConfig(precision="bf16"), plain | {"ACCELERATE_MIXED_PRECISION": "bf16"})


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--mixed_precision", "bf16"), "the launcher sets mixed_precision to bf16"),
        (("--mixed_precision", "no", "--gradient_accumulation_steps", "4"), ""),
        (("--mixed_precision", "no", "--dynamo_backend", "inductor"), "dynamo_backend"),
    ],
)
def test_real_launches_are_refused_or_act(
    shards: str, tmp_path: Path, option: tuple[str, ...], words: str
) -> None:
    """accelerate launch hands gradient_accumulation_steps on with DeepSpeed only; here it changes nothing."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "1"]
    command += [
        "--num_machines",
        "1",
        *option,
        toy.__file__,
        "--train",
        shards,
        "--out",
        str(tmp_path / "run"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode != 0) == bool(words) and words in done.stderr, done.stderr[-2000:]
    assert (tmp_path / "run").exists() == (not words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0.0}, "epochs is 0.0; expected a finite number above 0: change --epochs"),
        ({"epochs": float("nan")}, "epochs is nan"),
        ({"threads": -1}, "threads is -1; expected at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"gradient_cache_size": -4}, "gradient_cache_size is -4; expected at least 0"),
        ({"validation": ValidationConfig(every=0)}, "validation.every is 0; expected at least 1"),
        ({"guard": GuardConfig(patience=0)}, "guard.patience is 0"),
        ({"guard": GuardConfig(rollback_factor=0.0)}, "guard.rollback_factor is 0.0"),
        ({"optimizer": OptimizerConfig(learning_rate=-1.0)}, "change --optimizer.learning-rate"),
        ({"optimizer": OptimizerConfig(beta1=1.5)}, "optimizer.beta1 is 1.5; expected between 0 and 1"),
        ({"stream": StreamConfig(max_rejected_fraction=2.0)}, "stream.max_rejected_fraction is 2.0"),
        ({"stream": StreamConfig(workers=-2)}, "stream.workers is -2"),
        ({"ema_decay": 1.1}, "ema_decay is 1.1"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(
    shards: str, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    config = replace(toy.Config(train=shards, out=str(tmp_path / "run")), **change)
    with pytest.raises(ValueError) as refused:
        mm.train(config, toy.objective)
    assert words in str(refused.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("weight", [-5.0, float("nan")])
def test_a_weight_that_is_negative_or_not_a_number_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number of at least 0"):
        mm.Objective(mm.Invariance(weight), {})


class FieldReader(toy.BytesReader):
    """A reader of a JSON field that the samples do not have."""

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        return None


@dataclass(frozen=True)
class Misspelled(toy.Numbers):
    """Reads the field captoin of the JSON."""

    def reader(self) -> toy.BytesReader:
        """Nothing is ever there."""
        return FieldReader("json")


@dataclass(frozen=True)
class MisspelledConfig(toy.Config):
    """b reads a field that no sample has."""

    b: Misspelled = Misspelled()


def test_a_view_that_no_sample_has_stops_the_run_and_names_what_there_is(shards: str, tmp_path: Path) -> None:
    config = MisspelledConfig(train=shards, out=str(tmp_path / "run"), epochs=100.0)
    with pytest.raises(AbsentViewError) as stopped:
        mm.train(config, toy.objective)
    message = str(stopped.value)
    assert "96 samples were read and none of them has the view b (b reads json)" in message
    assert "the members a.npy, b.npy, json and the JSON fields class" in message
    few = replace(config, out=str(tmp_path / "few"), epochs=0.5)  # fewer samples than are asked for
    with pytest.raises(AbsentViewError):
        mm.train(few, toy.objective)


def test_an_input_that_the_encoder_does_not_take_is_refused_before_the_first_step(
    shards: str, tmp_path: Path
) -> None:
    class Short(toy.BytesReader):
        @property
        def shape(self) -> tuple[int, ...]:
            return (5,)

    @dataclass(frozen=True)
    class Shorter(toy.Numbers):
        def reader(self) -> toy.BytesReader:
            return Short("b.npy")

    @dataclass(frozen=True)
    class Config(toy.Config):
        b: Shorter = Shorter("b.npy")

    with pytest.raises(ValueError, match=r"the branch of view 'b' does not take inputs of shape \(5,\)"):
        mm.train(Config(train=shards, out=str(tmp_path / "run")), toy.objective)
    assert not (tmp_path / "run").exists()
