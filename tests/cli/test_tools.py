"""Tools on an exported run: embed to files, search, classify; labels from shards and folders."""

import json

import numpy as np
import pytest
import torch
from photographs import crop, encoded
from safetensors import safe_open
from scores import numbers
from small_runs import make_run
from webdataset import TarWriter

import mmvicreg as mm
from mmvicreg.cli.classify import ClassifyConfig, classify
from mmvicreg.cli.embed import EmbedConfig, embed
from mmvicreg.cli.main import main
from mmvicreg.cli.search import SearchConfig, search
from mmvicreg.errors import WrongOptionError
from mmvicreg.evaluation.summary import read_summary
from mmvicreg.evaluation.transfer.label_files import open_labelled, pack_folder, read_lines
from mmvicreg.evaluation.transfer.labels import label_matrix, labels_of
from mmvicreg.evaluation.transfer.prompts import zero_shot_weights
from mmvicreg.interop.export import save_pretrained
from mmvicreg.modalities.vocabulary import write_vocabulary
from mmvicreg.shards.index import open_index

WORDS = ["red bird", "blue boat", "red boat"]


@pytest.fixture
def export(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))
    write_vocabulary(WORDS, str(tmp_path / "words.json"), min_count=1)
    image = mm.ImageModality(encoder="timm/test_resnet", size=64, projector=(6,))
    text = mm.TextModality(
        encoder="gru",
        vocabulary=str(tmp_path / "words.json"),
        word_width=8,
        state_width=8,
        length=9,
        projector=(6,),
    )
    return str(save_pretrained(make_run(tmp_path, {"image": image, "text": text}), tmp_path / "export"))


@pytest.fixture
def shards(tmp_path):
    with TarWriter(str(tmp_path / "data-000000.tar")) as writer:
        for n in range(24):
            sample = {"__key__": f"{n:03d}", "png": encoded(n, format="PNG"), "txt": WORDS[n % 3]}
            writer.write(sample | {"cls": str(n % 2)})  # even and odd crops are of different photographs
    return str(tmp_path / "data-000000.tar")


@pytest.mark.parametrize("suffix", ["safetensors", "npy", "npz", "parquet"])
def test_embeddings_leave_with_keys_and_identities(export, shards, tmp_path, suffix):
    out = tmp_path / f"rows.{suffix}"
    embed(EmbedConfig(export, shards, str(out)))
    if suffix == "safetensors":
        with safe_open(out, "np") as file:
            rows, metadata = file.get_tensor("text"), file.metadata()
        assert (
            json.loads(metadata["text.identities"]) == WORDS and len(json.loads(metadata["image.keys"])) == 24
        )
    elif suffix == "npy":
        rows = np.load(tmp_path / "rows.text.npy", mmap_mode="r")
        lines = [json.loads(line) for line in (tmp_path / "rows.text.jsonl").read_text().splitlines()]
        assert [line["identity"] for line in lines] == WORDS
        lines = (tmp_path / "rows.image.jsonl").read_text().splitlines()
        assert len(lines) == 24 and json.loads(lines[5])["key"] == "005"
    elif suffix == "npz":
        found = np.load(out)
        rows = found["text.z"]
        assert found["text.identities"].tolist() == WORDS and found["image.keys"][5] == "005"
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(out).to_pydict()
        rows = np.array([e for e, v in zip(table["embedding"], table["view"], strict=True) if v == "text"])
    assert rows.shape == (3, 6)
    with pytest.raises(WrongOptionError, match=r"expected a name in"):
        embed(EmbedConfig(export, shards, str(tmp_path / "rows.csv")))


def test_a_picture_finds_itself_and_a_text_finds_its_caption(export, shards, tmp_path, capsys):
    crop(7).save(tmp_path / "query.png")
    search(SearchConfig(export, shards, str(tmp_path / "query.png"), k=3)).show(as_json=False)
    assert capsys.readouterr().out.splitlines()[0].startswith("1.0000  007")
    search(SearchConfig(export, shards, "blue boat", among="text", k=1)).show(as_json=False)
    assert "blue boat" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="no such file"):
        search(SearchConfig(export, shards, "nowhere.png")).show(as_json=False)


def test_labelled_shards_are_classified_three_ways(export, shards, tmp_path):
    (tmp_path / "names.txt").write_text("red bird\nblue boat\n")
    config = ClassifyConfig(
        export,
        test=shards,
        train=shards,
        names=str(tmp_path / "names.txt"),
        k=1,
        out=str(tmp_path / "found.json"),
    )
    classify(config)
    found = numbers(read_summary(tmp_path / "found.json"), "test")
    assert found["knn_1.top1"] == 1.0  # the training rows themselves
    assert found["linear.top1"] > 0.9
    assert found["zero_shot.classes"] == 2 and found["zero_shot.chance"] == 0.5
    assert (tmp_path / "found.png").stat().st_size > 3000


def test_an_image_folder_is_labelled_by_its_folders(export, tmp_path):
    for name in ("boats", "birds"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for n in range(3):
            crop(n + 3 * (name == "boats")).save(tmp_path / "pictures" / name / f"{n}.jpg")
    names = pack_folder(tmp_path / "pictures", tmp_path / "folder-000000.tar")
    assert names == ["birds", "boats"]
    assert labels_of(open_index(str(tmp_path / "folder-000000.tar"))) == [[0], [0], [0], [1], [1], [1]]
    classify(ClassifyConfig(export, test=str(tmp_path / "pictures"), out=str(tmp_path / "f.json")))
    assert read_summary(tmp_path / "f.json").split("test", "zero_shot")


def test_zero_shot_weights_equal_open_clips_on_the_same_model(tmp_path):
    zero_shot = pytest.importorskip("open_clip").build_zero_shot_classifier
    import open_clip
    from small_runs import TINY

    from mmvicreg.interop.loading import load
    from mmvicreg.interop.open_clip import to_open_clip

    (tmp_path / "tiny-zero.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path)
    run = load("open_clip/tiny-zero")
    names, templates = ["bird", "a boat"], ["a photo of a {}.", "the {}"]
    model, _, tokenizer = to_open_clip(run)
    theirs = zero_shot(model, tokenizer, names, templates)
    ours = zero_shot_weights(
        run.model.branch("text"), run.modalities["text"].reader(), names, templates=templates
    )
    torch.testing.assert_close(ours.T, theirs)
    with pytest.raises(ValueError, match="has no {}"):
        zero_shot_weights(
            run.model.branch("text"), run.modalities["text"].reader(), names, templates=["photo"]
        )


def test_several_labels_and_lists_of_names(tmp_path):
    with TarWriter(str(tmp_path / "many-000000.tar")) as writer:
        for n, labels in enumerate([[0, 2], [1], []]):
            writer.write({"__key__": str(n), "json": json.dumps({"labels": labels}).encode()})
    several = labels_of(open_index(str(tmp_path / "many-000000.tar")), "json:labels")
    assert several == [[0, 2], [1], []]
    assert label_matrix(several, 3).astype(int).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    (tmp_path / "names.json").write_text(json.dumps({"boat": 1, "bird": 0}))
    assert read_lines(tmp_path / "names.json") == ["bird", "boat"]
    with pytest.raises(KeyError, match="reads cls; the shards have only json"):
        labels_of(open_index(str(tmp_path / "many-000000.tar")), "cls")


@pytest.fixture
def many(tmp_path):
    """Photographs with several labels each: which of the two it is of, its half, and one for all."""
    for name, samples in (("train", range(0, 40)), ("test", range(40, 60))):
        with TarWriter(str(tmp_path / f"{name}-000000.tar")) as writer:
            for n in samples:
                labels = [n % 2, 2 + (7 * n % 580 > 290), 4]
                sample = {"__key__": f"{n:03d}", "png": encoded(n, format="PNG")}
                writer.write(sample | {"json": json.dumps({"labels": labels if n % 10 else []}).encode()})
    return tmp_path


def test_several_labels_are_scored_by_mean_average_precision(export, many, capsys):
    data = [
        "--train",
        f"{many}/train-000000.tar",
        "--test",
        f"{many}/test-000000.tar",
        "--label",
        "json:labels",
    ]
    assert (
        main(["classify", export, *data, "--k", "3", "--out", f"{many}/found.json", "--device", "cpu"]) == 0
    )
    summary = read_summary(many / "found.json")
    for scores in (numbers(summary, "test", "knn_3"), numbers(summary, "test", "linear")):
        assert scores["rows"] == 18 and scores["classes"] == 5  # samples without a label are left out
        assert scores["per_class.4"] == pytest.approx(1.0)  # all have it
        assert min(scores["per_class.0"], scores["per_class.1"]) > 0.9  # the two photographs differ
        assert scores["chance"] < 0.65 < scores["mean_average_precision"] <= 1
    assert "mean_average_precision" in capsys.readouterr().out and not (many / "found.png").exists()
    assert main(["classify", export, *data, "--solver", "sgd"]) == 1
    assert "which --solver sgd does not take" in capsys.readouterr().err
    assert main(["finetune", export, f"{many}/tuned", *data]) == 1
    assert (
        "samples have several labels (the first is number 1); this needs one each" in capsys.readouterr().err
    )


def test_the_papers_sgd_is_a_solver_and_other_branches_are_classified_too(export, shards, tmp_path, capsys):
    data = ["--train", shards, "--test", shards, "--out", f"{tmp_path}/found.json", "--device", "cpu"]
    assert main(["classify", export, *data, "--solver", "sgd", "--learning-rates", "0.02", "0.1"]) == 0
    found = numbers(read_summary(tmp_path / "found.json"), "test", "linear")
    assert found["top1"] > 0.9 and found["learning_rate"] in (0.02, 0.1)
    assert main(["classify", export, *data, "--branch", "text"]) == 0
    assert read_summary(tmp_path / "found.json").scores["test.linear.rows"] == 3  # distinct captions
    assert main(["classify", export, *data, "--branch", "sound"]) == 1
    assert "no branch 'sound'; this run has image, text" in capsys.readouterr().err
    (tmp_path / "one.txt").write_text("bird\n")
    assert main(["classify", export, *data, "--names", f"{tmp_path}/one.txt"]) == 1
    assert "a label is 1, and there are 1 class names" in capsys.readouterr().err


def test_folders_of_one_name_are_not_mixed_up(tmp_path):
    for place, number in (("a", 0), ("b", 1)):
        (tmp_path / place / "pictures" / "bird").mkdir(parents=True)
        crop(number).save(tmp_path / place / "pictures/bird/x.png")
    first, second = (open_labelled(str(tmp_path / place / "pictures"), cache=tmp_path) for place in "ab")
    assert first.index.fingerprint != second.index.fingerprint and first.names == ["bird"]
    assert first.single().tolist() == [0]


def test_class_names_in_the_data_are_numbered_by_the_file_of_names(export, tmp_path, capsys):
    with TarWriter(str(tmp_path / "named-000000.tar")) as writer:
        for n in range(24):
            label = json.dumps({"is": ["tower", "flower"][n % 2]}).encode()
            writer.write({"__key__": f"{n:03d}", "png": encoded(n, format="PNG"), "json": label})
    (tmp_path / "names.txt").write_text("flower\ntower\n")
    shard = str(tmp_path / "named-000000.tar")
    data = ["--train", shard, "--test", shard, "--label", "json:is", "--device", "cpu"]
    assert main(["classify", export, *data]) == 1
    assert "'tower' is not among class names: none were given (--names FILE)" in capsys.readouterr().err
    out = ["--out", f"{tmp_path}/found.json", "--k", "1"]
    assert main(["classify", export, *data, *out, "--names", f"{tmp_path}/names.txt"]) == 0
    assert read_summary(tmp_path / "found.json").split("test", "knn_1", "per_class") == {
        "flower": 1.0,
        "tower": 1.0,
    }
    names = tuple(read_lines(tmp_path / "names.txt"))
    assert labels_of(open_index(shard), "json:is", names)[:2] == [[1], [0]]
    assert main(["classify", export, *data, "--names", f"{tmp_path}/none.txt"]) == 1
    assert "none.txt: no such file; expected class names" in capsys.readouterr().err


def test_a_search_takes_the_rows_that_another_tool_has_embedded(export, shards, tmp_path):
    embed(EmbedConfig(export, shards, str(tmp_path / "rows.npz")))
    stores = sorted((tmp_path / "cache/embeddings").iterdir())
    search(SearchConfig(export, shards, "blue boat", among="text", k=1)).show(as_json=False)
    assert sorted((tmp_path / "cache/embeddings").iterdir()) == stores


def test_an_export_does_not_take_the_place_of_something_else(export, shards, tmp_path, capsys):
    assert main(["export", export, shards]) == 1
    assert "is a file; --format hub writes a folder: choose another name" in capsys.readouterr().err
    assert main(["export", export, str(tmp_path), "--format", "image"]) == 1
    assert "is a folder; --format image writes a file" in capsys.readouterr().err
