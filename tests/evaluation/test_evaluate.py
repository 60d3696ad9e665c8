"""`mmvicreg evaluate` as a user runs it: folds, several processes, and what it says where it cannot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from photographs import encoded
from scores import numbers
from small_runs import make_run
from towers_small import image_and_captions
from webdataset import TarWriter

from mmvicreg.cli.main import main
from mmvicreg.evaluation.summary import read_summary
from mmvicreg.interop.export import save_pretrained
from mmvicreg.modalities.decoding import pixels

WORDS = ["a", "red", "bird", "blue", "boat"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """An export, and 20 pictures of two captions each."""
    folder = tmp_path_factory.mktemp("toy")
    for name, chosen in (("pairs", range(20)), ("training", range(5, 25))):
        with TarWriter(str(folder / f"{name}-000000.tar")) as writer:
            for n in chosen:
                start = f"{WORDS[n % 5]} {WORDS[n // 5]}"
                captions = json.dumps({"c": [start, f"{start} red bird"]}).encode()
                writer.write({"__key__": f"{n:03d}", "png": encoded(n, format="PNG"), "json": captions})
    save_pretrained(make_run(folder, image_and_captions(folder, WORDS)), folder / "export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMVICREG_CACHE", str(folder / "cache"))
        yield folder


def arguments(toy, out, *options):
    return ["evaluate", str(toy / "export"), "--data", f"toy={toy}/pairs-000000.tar", "--out", str(toy / out),
            "--device", "cpu", *options]  # fmt: skip


def test_folds_and_every_number_of_geometry_are_in_the_file(toy, capsys):
    assert main(arguments(toy, "one.json", "--folds", "5")) == 0
    found = numbers(read_summary(toy / "one.json"), "toy")
    assert found["image_to_text_5_folds.num_queries"] == 20
    assert found["image_to_text_5_folds.num_items"] == 8 and found["image_to_text.num_items"] == 40
    assert found["image_to_text_5_folds.recall_at_1"] >= found["image_to_text.recall_at_1"]
    for kind in ("geometry", "representations"):
        assert found[f"{kind}.image.effective_rank"] > 1 and found[f"{kind}.text.effective_rank"] > 1
    for kind in ("independence", "representations_independence"):
        for name in ("rows", "pairs", "pairwise_hsic", "dhsic", "sigreg"):
            assert f"{kind}.text.{name}" in found
    assert found["matching_pairs.image_text.pairs"] == 20
    assert found["modality_gap.image_text.centroid"] > 0
    assert "image to text 5 folds" in capsys.readouterr().out
    assert main(arguments(toy, "none.json", "--folds", "7")) == 1
    assert "20 images do not divide into 7 folds" in capsys.readouterr().err


def test_a_scoring_is_written_beside_its_scores(toy, capsys):
    training = f"{toy}/training-000000.tar"
    options = ("--scoring", "correlation", "--correlation-data", training, "--widths", "2", "4")
    assert main(arguments(toy, "correlation.json", *options, "--hubness", "inverted_softmax")) == 0
    found = read_summary(toy / "correlation.json")
    assert found.settings == {
        "scoring": "correlation",
        "hubness": "inverted_softmax",
        "widths": [2, 4],
        "correlation_data": training,
    }
    for direction in ("image_to_text", "image_to_text_width_2", "text_to_image_width_4"):
        assert found.scores[f"toy.{direction}.num_items"] in (20, 40)
    capsys.readouterr()
    wrong: list[tuple[tuple[str, ...], int, str]] = [
        (
            ("--scoring", "correlation", "--correlation-data", f"{toy}/pairs-000000.tar"),
            1,
            "in the split 'toy' too",
        ),
        (("--scoring", "correlation"), 2, "takes training shards as --correlation-data"),
        (("--correlation-data", training), 2, "other scorings take none"),
        (("--scoring", "prediction"), 1, "predicts nothing"),
        (("--widths", "4", "7"), 1, "--widths 7: the compared rows have 6 columns"),
        (("--widths", "0"), 2, "--widths 0"),
        (("--hubness", "csls", "--folds", "5"), 2, "without correction for hubs"),
    ]
    for given, status, message in wrong:
        assert main(arguments(toy, "x.json", *given)) == status
        assert message in " ".join(capsys.readouterr().err.split())


def test_every_picture_is_decoded_once_and_none_to_be_shown(toy, monkeypatch):
    decoded = []

    def counting(data, **options):
        decoded.append(data)
        return original(data, **options)

    original = pixels.decode
    monkeypatch.setattr(pixels, "decode", counting)
    monkeypatch.setenv("MMVICREG_CACHE", str(toy / "counted"))
    assert main(arguments(toy, "first.json")) == 0
    assert len(decoded) == len(set(decoded)) == 20
    assert main(arguments(toy, "second.json")) == 0  # from the embeddings that the first call kept
    assert len(decoded) == 20


@pytest.mark.slow
def test_two_launched_processes_write_the_numbers_of_one(toy):
    assert main(arguments(toy, "alone.json")) == 0
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "MMVICREG_CACHE": str(toy / "cache-of-two"),
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "mmvicreg.cli.main", *arguments(toy, "both.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written: ") == 1
    one, two = (read_summary(toy / name) for name in ("alone.json", "both.json"))
    assert len(one.data["toy"].pop("ranges")) == 1 and len(two.data["toy"].pop("ranges")) == 2
    assert one == two


def test_bad_input_is_answered_with_what_to_do(toy, capsys):
    for options, message in (
        (["evaluate", str(toy / "export"), "--data", str(toy / "no.tar")], "missing file at open"),
        (arguments(toy, "x.json", "--caption", "json:title"), "'mmvicreg check'"),
        (arguments(toy, "x.json", "--caption", "txt"), "reads txt"),
    ):
        assert main(options) == 1
        assert message in capsys.readouterr().err
