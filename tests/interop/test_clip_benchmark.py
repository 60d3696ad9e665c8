"""CLIP_benchmark's own command line, with its parser, loaders and metrics, on an exported run: our numbers."""

import json
import sys

import pytest
from photographs import encoded
from small_runs import make_run
from towers_small import image_and_captions
from webdataset import TarWriter

from mmvicreg.cli.main import main
from mmvicreg.evaluation.summary import read_summary
from mmvicreg.interop.clip_benchmark import main as clip_benchmark
from mmvicreg.interop.export import save_pretrained

pytestmark = pytest.mark.filterwarnings("ignore")  # CLIP_benchmark's own

WORDS = ["a", "red", "bird", "blue", "boat"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Its webdataset layout: two captions a picture for retrieval, classes for zero-shot; and an export."""
    folder = tmp_path_factory.mktemp("clip-benchmark")
    for task in ("retrieval", "classification"):
        (folder / task / "test").mkdir(parents=True)
        (folder / task / "test/nshards.txt").write_text("1")
        (folder / task / "dataset_type.txt").write_text(task)
        with TarWriter(str(folder / task / "test/0.tar")) as writer:
            for n in range(25):
                start = f"{WORDS[n % 5]} {WORDS[n // 5]}"
                captions = [start, f"{start} red bird"]
                sample = {"__key__": f"{n:03d}", "png": encoded(n, format="PNG"), "txt": "\n".join(captions)}
                writer.write(sample | {"json": json.dumps({"c": captions}).encode(), "cls": str(n % 3)})
    (folder / "classification/classnames.txt").write_text("red bird\nblue boat\na boat\n")
    (folder / "classification/zeroshot_classification_templates.txt").write_text("a red {c}\nblue {c}\n")
    (folder / "templates.txt").write_text("a red {}\nblue {}\n")
    save_pretrained(make_run(folder, image_and_captions(folder, WORDS)), folder / "export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMVICREG_CACHE", str(folder / "cache"))
        yield folder


def theirs(monkeypatch, data, name, *options):
    out = data / f"theirs-{name}.json"
    arguments = ["eval", "--model_type", "mmvicreg", "--model", str(data / "export"), "--pretrained", "none",
                 "--dataset", f"wds/{name}", "--dataset_root", str(data / name), "--output", str(out), "--no_amp",
                 "--num_workers", "0", "--batch_size", "8", "--quiet", *options]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", *arguments])
    clip_benchmark()
    return json.loads(out.read_text())["metrics"]


def test_its_retrieval_is_ours_to_the_digit(monkeypatch, data):
    found = theirs(
        monkeypatch, data, "retrieval", "--task", "zeroshot_retrieval", "--recall_k", "1", "5", "10"
    )
    arguments = [
        "--data",
        f"toy={data}/retrieval/test/0.tar",
        "--out",
        str(data / "ours.json"),
        "--device",
        "cpu",
    ]
    assert main(["evaluate", str(data / "export"), *arguments]) == 0
    ours = read_summary(data / "ours.json").scores
    for k in (1, 5, 10):
        assert ours[f"toy.image_to_text.recall_at_{k}"] == pytest.approx(
            found[f"text_retrieval_recall@{k}"], abs=1e-7
        )
        assert ours[f"toy.text_to_image.recall_at_{k}"] == pytest.approx(
            found[f"image_retrieval_recall@{k}"], abs=1e-7
        )
    assert 0 < (ours["toy.image_to_text.recall_at_10"] or 0) < 1


def test_its_zero_shot_accuracy_is_ours_to_the_digit(monkeypatch, data):
    found = theirs(monkeypatch, data, "classification", "--task", "zeroshot_classification")
    arguments = ["--test", f"{data}/classification/test/0.tar", "--names", f"{data}/classification/classnames.txt",
                 "--templates", f"{data}/templates.txt", "--out", str(data / "classes.json"), 
                 "--device", "cpu"]  # fmt: skip
    assert main(["classify", str(data / "export"), *arguments]) == 0
    ours = read_summary(data / "classes.json").scores
    assert ours["test.zero_shot.top1"] == pytest.approx(found["acc1"], abs=1e-7)
    assert ours["test.zero_shot.mean_per_class"] == pytest.approx(found["mean_per_class_recall"], abs=1e-7)
