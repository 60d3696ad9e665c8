"""What a run does with its configuration, and what it says to a configuration that cannot be."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import toy
from safetensors.torch import load_file

import mmvicreg as mm
from mmvicreg.modalities.vocabulary import write_vocabulary
from mmvicreg.runs.run import read_config, read_log

DEMO = Path(__file__).parents[2] / "data/demo"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy.write_shards(tmp_path_factory.mktemp("data"))


def test_encoders_of_pictures_and_words_train_and_load_again(tmp_path: Path) -> None:
    """The package's own modalities on the demo's pictures, trained from random weights."""

    @dataclass(frozen=True)
    class Config(mm.TrainConfig):
        image: mm.ImageModality = mm.ImageModality("timm/test_resnet", size=32, projector=(32, 16))
        text: mm.TextModality = mm.TextModality(
            "gru", vocabulary=str(tmp_path / "words.json"), length=8, state_width=32, projector=(32, 16)
        )

    write_vocabulary(["red flower", "cat face"], str(tmp_path / "words.json"), min_count=1)
    config = Config(
        train=str(DEMO / "train-000000.tar"),
        out=str(tmp_path / "run"),
        batch_size=16,
        epochs=0.1,
        cpu=True,
        log_every=1,
        precision="bf16",
    )
    regularizer = mm.VICReg()
    run = mm.train(
        config, lambda config: mm.Objective(mm.Invariance(), {"image": regularizer, "text": regularizer})
    )
    assert run.step > 1 and all(line["total"] > 0 for line in read_log(run.folder))
    again = mm.load(run.folder)
    for name, value in run.model.state_dict().items():
        assert again.model.state_dict()[name].equal(value), name


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"train": ""}, ValueError, "no shards to train on; give --train"),
        ({"train": "/no/such-{000..003}.tar"}, FileNotFoundError, "/no/such"),
        ({"batch_size": 97}, ValueError, "96 samples, less than one batch of 97; lower --batch-size"),
        ({"batch_size": 0}, ValueError, "batch_size 0"),
        ({"log_every": 0}, ValueError, "log_every is 0; expected at least 1"),
        ({"ema_decay": -1.0}, ValueError, "ema_decay is -1.0; expected between 0 and 1"),
        ({"precision": "fp16"}, ValueError, "fp16 needs a GPU; choose bf16"),
        ({"a": toy.Numbers("a.npy", widths=(32, 8))}, ValueError, "expects widths equal ones, found (8, 16)"),
        ({"a": toy.Numbers("z.npy")}, KeyError, "z.npy"),
        ({"a": mm.ImageModality("timm/resnet5")}, ValueError, "did you mean resnet"),
        ({"a": mm.ImageModality("resnet50")}, ValueError, "expected LIBRARY/NAME"),
        ({"best_metric": "a_to_b/recall_at_1"}, ValueError, "give --validation.data as well"),
        ({"gradient_cache_size": 4}, ValueError, "normalizes over the batch"),
        ({"activation_checkpointing": True}, ValueError, "no trained encoder has repeated blocks"),
        ({"optimizer": mm.OptimizerConfig(unfreeze_at={"c": 3})}, KeyError, "names branch 'c'"),
        ({"parallel": "fsdp", "ema_decay": 0.9}, ValueError, "choose ddp"),
        ({"trackers": ("nothing",)}, ValueError, "trackers"),
        ({"validation": mm.ValidationConfig(data="/no/such.tar")}, FileNotFoundError, "/no/such.tar"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_first_step(
    shards: str, tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    config = replace(toy.Config(train=shards, out=str(tmp_path / "run")), **change)
    with pytest.raises(error) as said:
        mm.train(config, toy.objective)
    assert words in str(said.value)
    assert not (tmp_path / "run/log.jsonl").exists()


def test_a_configuration_without_a_modality_or_anything_to_train_is_refused(
    shards: str, tmp_path: Path
) -> None:
    plain = mm.TrainConfig(train=shards, out=str(tmp_path / "run"), cpu=True)
    with pytest.raises(ValueError, match="has no modality"):
        mm.train(plain, lambda config: mm.Objective(mm.Invariance(), {}))
    frozen = [toy.Numbers(f"{name}.npy", frozen=True, widths=()) for name in "ab"]
    config = toy.Config(train=shards, out=str(tmp_path / "other"), a=frozen[0], b=frozen[1])
    with pytest.raises(ValueError, match="nothing to train"):
        mm.train(config, toy.objective)


def test_a_folder_that_is_not_a_run_is_left_alone(shards: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        mm.train(toy.Config(train=shards, out=str(tmp_path)), toy.objective)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_step_in_chunks_is_the_step_of_the_whole_batch(shards: str, tmp_path: Path) -> None:
    """Gradient accumulation for statistics of the batch; plain accumulation would be another objective."""
    parts = [toy.Numbers(f"{name}.npy", dropout=0.0, norm="layer") for name in "ab"]
    config = toy.Config(train=shards, out=str(tmp_path / "whole"), a=parts[0], b=parts[1], goal="vicreg")
    mm.train(config, toy.objective)
    mm.train(replace(config, out=str(tmp_path / "chunks"), gradient_cache_size=5), toy.objective)
    one, other = (read_log(tmp_path / name) for name in ("whole", "chunks"))
    for left, right in zip(one, other, strict=True):
        assert right["terms"] == pytest.approx(left["terms"], rel=1e-4)
        assert right["gradient_norms"] == pytest.approx(left["gradient_norms"], rel=1e-4)


def test_momentum_branches_give_the_targets_and_are_continued(shards: str, tmp_path: Path) -> None:
    seen: list[bool] = []

    class Bootstrap(mm.Invariance):
        """Each embedding against the momentum embedding of the other view."""

        momentum = 0.9

        def terms(self, a_nD: Any, b_nD: Any, context: mm.PairContext) -> Any:
            targets = context.targets
            assert targets is not None and not targets[0].requires_grad
            seen.append(bool((targets[0] - a_nD).abs().max() > 0))
            first = super().terms(a_nD, targets[1], context)["invariance"]
            return {"invariance": first + super().terms(targets[0], b_nD, context)["invariance"]}

    def objective(config: toy.Config) -> mm.Objective:
        regularizer = mm.VICReg()
        return mm.Objective(Bootstrap(), {"a": regularizer, "b": regularizer})

    config = toy.Config(train=shards, out=str(tmp_path / "whole"))
    mm.train(config, objective)
    assert all(seen[2:])
    half = replace(
        config, out=str(tmp_path / "half"), epochs=1.0, optimizer=mm.OptimizerConfig(schedule="constant")
    )
    mm.train(half, objective)
    whole = replace(half, out=str(tmp_path / "both"), epochs=2.0)
    mm.train(whole, objective)
    mm.train(replace(half, epochs=2.0, allow_change=("epochs",)), objective)
    for file in ("momentum", "weights"):
        one, other = (
            load_file(tmp_path / f"{name}/checkpoints/step-00000012/{file}.safetensors")
            for name in ("both", "half")
        )
        assert all(one[name].equal(other[name]) for name in one)


def test_the_batch_size_is_searched_and_kept(shards: str, tmp_path: Path) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "run"), batch_size="auto", epochs=3.0)
    assert mm.train(config, toy.objective).step == 3
    assert read_config(tmp_path / "run")["config"]["batch_size"] == 64
    assert mm.train(config, toy.objective).step == 3


def test_rates_memory_and_the_share_of_the_peak_are_logged(shards: str, tmp_path: Path) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "run"), epochs=1.0, peak_tflops=1.0)
    mm.train(config, toy.objective)
    line = read_log(tmp_path / "run")[-1]
    assert 0 < line["mfu"] < 1 and line["memory_gb"] > 0 and 0 <= line["data_wait"] <= 1
    macs = 2 * (12 * 12 * 2 + 12 * 32 + 32 * 16)  # both branches
    assert line["mfu"] == pytest.approx(line["samples_per_second"] * macs * 2 * 3 / 1e12, rel=1e-6)
    assert set(line["gradient_norms"]) == {"a", "b"} and line["embeddings"]["a-b"]["margin"] is not None
