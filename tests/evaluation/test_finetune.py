"""The semi-supervised protocol on real digits: what is chosen, that it learns, that it continues after a kill."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scores import numbers
from sklearn.datasets import load_digits
from small_runs import make_run
from webdataset import TarWriter

import mmvicreg as mm
from mmvicreg.cli.main import main
from mmvicreg.evaluation.summary import read_summary
from mmvicreg.evaluation.transfer.finetuning import FineTuning, balanced_subset
from mmvicreg.interop.export import save_pretrained

SIZES = np.bincount(np.delete(load_digits().target, slice(None, None, 4))).tolist()
"""Training samples of each digit."""
TEN = ("--fraction", "0.1", "--batch-size", "32", "--crop-scale", "0.7", "1", "--flip", "0")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """1,797 written digits of scikit-learn as shards (test: every fourth), and an untrained export to tune."""
    folder = tmp_path_factory.mktemp("digits")
    found = load_digits()
    writers = {name: TarWriter(str(folder / f"{name}-000000.tar")) for name in ("train", "test")}
    for number, (image, label) in enumerate(zip(found.images, found.target, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray((255 - image * 15.9).astype(np.uint8)).resize(
            (32, 32), Image.Resampling.BICUBIC
        ).save(buffer, "PNG")
        sample = {"__key__": f"{number:05d}", "png": buffer.getvalue(), "cls": str(label).encode()}
        writers["test" if number % 4 == 0 else "train"].write(sample)
    for writer in writers.values():
        writer.close()
    image = mm.ImageModality(encoder="timm/test_resnet", size=32, projector=())
    save_pretrained(make_run(folder, {"image": image}), folder / "export")
    return folder


@pytest.fixture(scope="module")
def ten(digits):
    """The result of fine-tuning on a tenth of the labels."""
    assert main(command(digits, digits / "ten", *TEN)) == 0
    return digits / "ten"


def command(digits, out, *options):
    shards = ("--train", f"{digits}/train-000000.tar", "--test", f"{digits}/test-000000.tar")
    return ["finetune", f"{digits}/export", str(out), *shards, "--device", "cpu", *options]


def test_a_fraction_of_every_class_is_chosen_and_at_least_one(digits):
    labels = np.repeat([0, 1, 2, -1, 3], [1000, 300, 1, 50, 40])
    labels = labels[np.random.default_rng(0).permutation(len(labels))]
    one, ten = (balanced_subset(labels, fraction=share, seed=5) for share in (0.01, 0.1))
    assert np.bincount(labels[one]).tolist() == [10, 3, 1, 1]
    assert np.bincount(labels[ten]).tolist() == [100, 30, 1, 4]
    assert set(one) < set(ten) and (labels[ten] >= 0).all()
    assert balanced_subset(labels, fraction=0.01, seed=5).tolist() == one.tolist()
    assert balanced_subset(labels, fraction=0.01, seed=6).tolist() != one.tolist()
    assert len(balanced_subset(labels, fraction=1.0)) == (labels >= 0).sum()
    with pytest.raises(ValueError, match=r"fraction is 10; expected .*0\.01 for 1%"):
        balanced_subset(labels, fraction=10)


def test_schedules_are_the_papers():
    cosine = [FineTuning(epochs=20).factor(epoch) for epoch in (0, 10, 19)]
    assert cosine == pytest.approx([1.0, 0.5, (1 + np.cos(np.pi * 19 / 20)) / 2])
    step = [FineTuning(epochs=20, schedule="step").factor(epoch) for epoch in (0, 11, 12, 15, 16, 19)]
    assert step == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])


@pytest.mark.slow
def test_one_percent_trains_on_what_it_names_and_ten_percent_beats_chance_by_far(digits, ten, tmp_path):
    assert main(command(digits, tmp_path / "one", "--epochs", "1")) == 0
    lines = [line.split("\t") for line in (tmp_path / "one/subset.txt").read_text().splitlines()]
    assert sorted(int(label) for _, label in lines) == [
        n for n in range(10) for _ in range(round(SIZES[n] / 100))
    ]
    assert all(load_digits().target[int(key)] == int(label) and int(key) % 4 for key, label in lines)
    settings = read_summary(tmp_path / "one/summary.json").settings
    assert (settings["encoder_rate"], settings["head_rate"]) == (0.03, 0.08)
    summary = read_summary(ten / "summary.json")
    assert (summary.settings["encoder_rate"], summary.settings["head_rate"]) == (0.01, 0.1)
    result = numbers(summary, "test")
    assert result["training_samples"] == pytest.approx(135, abs=3) and result["rows"] == 450
    assert result["top1"] > 0.5 and result["chance"] == 0.1
    assert (ten / "confusion.png").stat().st_size > 3000


@pytest.mark.slow
def test_a_killed_fine_tuning_continues_to_the_same_scores(digits, ten, tmp_path, capsys):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        [sys.executable, "-m", "mmvicreg.cli.main", *command(digits, tmp_path / "killed", *TEN)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list((tmp_path / "killed/checkpoints").glob("step-*")):
        assert started.poll() is None
        time.sleep(0.005)
    started.send_signal(signal.SIGKILL)
    started.wait()
    reached = newest(tmp_path / "killed")
    assert main(command(digits, tmp_path / "killed", *TEN)) == 0
    assert 0 < reached < newest(tmp_path / "killed")
    both = (ten, tmp_path / "killed")
    results = [read_summary(folder / "summary.json") for folder in both]
    assert results[0] == results[1]
    weights = [load_file(next(folder.glob("checkpoints/*/weights.safetensors"))) for folder in both]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=0)
    named = (tmp_path / "killed/subset.txt").read_text()
    assert main(command(digits, tmp_path / "killed", *TEN, "--seed", "3")) == 1
    assert "holds another fine-tuning" in capsys.readouterr().err
    assert (tmp_path / "killed/subset.txt").read_text() == named


def newest(folder):
    return max(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))


def test_bad_input_is_answered_with_what_to_do(digits, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["finetune", f"{digits}/export", str(tmp_path / "out")])
    assert "--train" in capsys.readouterr().err
    assert main(command(digits, tmp_path / "out", "--branch", "picture")) == 1
    assert "no branch 'picture'; this run has image" in capsys.readouterr().err
    assert main(command(digits, tmp_path / "out", "--fraction", "2")) == 2
    assert "fraction" in capsys.readouterr().err


def test_folders_of_other_classes_are_refused(digits, tmp_path, capsys):
    for place, label in (("train", "one"), ("test", "two")):
        (tmp_path / place / label).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / place / label / "x.png")
    folders = ["--train", f"{tmp_path}/train", "--test", f"{tmp_path}/test"]
    assert main(["finetune", f"{digits}/export", f"{tmp_path}/out", *folders]) == 1
    assert "hold different classes (one, two)" in capsys.readouterr().err
