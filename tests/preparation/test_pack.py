"""Pack: every source becomes the same plain shards, which webdataset and open_clip's conventions read."""

import gc
import json
import os

import pytest
from photographs import encoded
from webdataset import WebDataset

from mmvicreg.cli.pack import pack as pack_command
from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.decoding.pixels import decode
from mmvicreg.preparation.pack import PackConfig, pack
from mmvicreg.preparation.records import Columns
from mmvicreg.shards.index import open_index
from mmvicreg.stream.fetcher import Fetcher


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))


def pictures(folder, count=5):
    (folder / "sub").mkdir(parents=True)
    for i in range(count):
        (folder / "sub" / f"photo.{i}.jpg").write_bytes(encoded(i, width=90))
        (folder / "sub" / f"photo.{i}.txt").write_text(f"caption {i}")
    return folder


def samples(folder):
    index = open_index(f"{folder}/*.tar")
    fetch = Fetcher(index)
    return [fetch(*index.place(n), index.suffixes) for n in range(len(index))]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_a_folder_becomes_shards_that_webdataset_reads(tmp_path):
    pictures(tmp_path / "in")
    out = tmp_path / "out"
    assert pack_command(PackConfig(str(tmp_path / "in"), str(out), samples=2, processes=1)).status == 0
    assert sorted(os.listdir(out)) == [
        ".train-packing",
        "train-000000.tar",
        "train-000001.tar",
        "train-000002.tar",
        "train.index",
    ]
    urls = [str(out / f"train-{i:06d}.tar") for i in range(3)]
    theirs = list(WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [s["__key__"] for s in theirs] == [f"train_sub_photo_{i}" for i in range(5)]
    assert [s["jpg"] for s in theirs] == [encoded(i, width=90) for i in range(5)]
    assert [s.members["txt"].decode() for s in samples(out)] == [f"caption {i}" for i in range(5)]
    gc.collect()


def table(tmp_path, kind):
    rows = [{"image": f"sub/photo.{i}.jpg", "caption": f"caption {i}", "source": "test"} for i in range(5)]
    path = tmp_path / "in" / f"table.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        images = []
        for i, row in enumerate(rows):
            images.append(row | {"image": {"bytes": encoded(i, width=90), "path": None}})
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(images), path)
    else:
        mark = "\t" if kind == "tsv" else ","
        lines = [mark.join(rows[0]), *(mark.join(row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables(tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    pictures(tmp_path / "in")
    assert pack(PackConfig(str(table(tmp_path, kind)), str(tmp_path / "out"), processes=1)).left_out == ()
    found = samples(tmp_path / "out")
    assert [(s.members["jpg"], s.members["txt"].decode()) for s in found] == [
        (encoded(i, width=90), f"caption {i}") for i in range(5)
    ]
    about = json.loads(found[3].members["json"])
    assert about.pop("file", "sub/photo.3.jpg") == "sub/photo.3.jpg" and about == {"row": 4, "source": "test"}


def coco(root):
    images = [{"id": 10 + i, "file_name": f"sub/photo.{i}.jpg"} for i in range(5)]
    annotations = [{"image_id": 10 + i, "caption": f"caption {i} {k}"} for i in range(5) for k in range(5)]
    (root / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return root / "coco.json", {}


def karpathy(root):
    images = [
        {
            "filepath": "sub",
            "filename": f"photo.{i}.jpg",
            "imgid": i,
            "cocoid": 10 + i,
            "split": "train" if i < 5 else "test",
            "sentences": [{"raw": f"caption {i} {k}"} for k in range(5)],
        }
        for i in range(6)
    ]
    (root / "karpathy.json").write_text(json.dumps({"images": images}))
    return root / "karpathy.json", {"split": "train"}


@pytest.mark.parametrize("make", [coco, karpathy])
def test_caption_jsons_keep_all_captions(tmp_path, make):
    source, options = make(pictures(tmp_path / "in"))
    assert pack(PackConfig(str(source), str(tmp_path / "out"), processes=1, **options)).left_out == ()
    found = samples(tmp_path / "out")
    assert [json.loads(s.members["json"])["captions"] for s in found] == [
        [f"caption {i} {k}" for k in range(5)] for i in range(5)
    ]
    assert [json.loads(s.members["json"])["image_id"] for s in found] == [10, 11, 12, 13, 14]
    assert [s.members["txt"].decode() for s in found] == [f"caption {i} 0" for i in range(5)]


def test_resize_and_encode(tmp_path):
    pictures(tmp_path / "in")
    (tmp_path / "in" / "sub" / "bad.jpg").write_bytes(b"<html>")
    config = PackConfig(str(tmp_path / "in"), str(tmp_path / "out"), resize=24, encode="webp", processes=1)
    assert pack_command(config).status == 1
    found = samples(tmp_path / "out")
    assert len(found) == 5 and {decode(s.members["webp"]).array.shape for s in found} == {(24, 45, 3)}
    assert "not a picture" in (tmp_path / "out" / "train-skipped.jsonl").read_text()


@pytest.mark.slow
def test_size_limit_resume_and_processes(tmp_path):
    pictures(tmp_path / "in", count=8)
    source = str(tmp_path / "in")
    assert pack(PackConfig(source, str(tmp_path / "a"), megabytes=0.003, processes=1)).left_out == ()
    names = sorted(path.name for path in (tmp_path / "a").glob("*.tar"))
    assert len(names) > 2 and len(samples(tmp_path / "a")) == 8
    with pytest.raises(InvalidValueError, match="--resume"):
        pack(PackConfig(source, str(tmp_path / "a"), megabytes=0.003, processes=1))
    (tmp_path / "a" / names[1]).unlink()
    pack(PackConfig(source, str(tmp_path / "a"), megabytes=0.003, resume=True, processes=1))
    pack(PackConfig(source, str(tmp_path / "b"), megabytes=0.003, processes=2))
    one, two = (open_index(f"{tmp_path}/{folder}/*.tar") for folder in "ab")
    assert one.fingerprint == two.fingerprint


def test_wrong_sources_are_named(tmp_path):
    pictures(tmp_path / "in")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        pack(PackConfig(str(tmp_path / "none"), str(tmp_path / "out")))
    (tmp_path / "in" / "x.csv").write_text("url,caption\na,b\n")
    with pytest.raises(ValueError, match="no column 'image'; it has url, caption"):
        pack(PackConfig(str(tmp_path / "in" / "x.csv"), str(tmp_path / "out")))
    columns = Columns(image="url")
    config = PackConfig(str(tmp_path / "in" / "x.csv"), str(tmp_path / "out2"), columns=columns, processes=1)
    with pytest.raises(ValueError, match=r"holds no samples .* a: no such picture"):
        pack(config)
