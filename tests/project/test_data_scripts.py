"""Packing COCO and Tux Paint's stamps: tiny folders of the real layouts, made of the demo's pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from PIL import Image
from shard_members import demo_samples, load_script, samples


def jpeg(webp: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(webp)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def coco(tmp_path) -> Path:
    """Seven demo pictures in the layout of the COCO download, with Karpathy's file."""
    splits = ["train", "restval", "restval", "train", "val", "test", "test"]
    entries = []
    for number, (split, sample) in enumerate(zip(splits, demo_samples()["train"].values(), strict=False)):
        folder = "train2014" if split == "train" else "val2014"
        name = f"COCO_{folder}_{number:012d}.jpg"
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_bytes(jpeg(sample["webp"]))
        texts = [sample["txt"].decode() + " \n", f"A picture of “{sample['txt'].decode()}”."]
        sentences = [{"raw": text, "tokens": text.split(), "sentid": 0} for text in texts]
        entry = {
            "filepath": folder,
            "filename": name,
            "split": split,
            "cocoid": number,
            "sentences": sentences,
        }
        entries.append(entry)
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": entries}))
    return tmp_path


def coco_config(module: ModuleType, root: Path, out: str, **changes):
    fields = {"images": root, "captions": root / "dataset_coco.json", "out": root / out, "per_shard": 2}
    return module.Config(**{**fields, **changes})


def test_coco_is_packed_with_karpathys_split_and_the_original_bytes(coco, monkeypatch):
    make_coco = load_script("make_coco", monkeypatch)
    make_coco.main(coco_config(make_coco, coco, "shards"))
    names = sorted(path.name for path in (coco / "shards").iterdir())
    assert names == [
        f"coco-{n}-00000{i}.tar" for n, i in [("test", 0), ("train", 0), ("train", 1), ("val", 0)]
    ]
    found = {
        name: samples(*(coco / "shards").glob(f"coco-{name}-*.tar")) for name in ("train", "val", "test")
    }
    assert {name: len(part) for name, part in found.items()} == {"train": 4, "val": 1, "test": 2}
    for part in found.values():
        for key, sample in part.items():
            record = json.loads(sample["json"])
            assert set(sample) == {"jpg", "txt", "json"} and int(key) == record["cocoid"]
            folder = record["filename"].split("_")[1]
            assert sample["jpg"] == (coco / folder / record["filename"]).read_bytes()
            first, second = record["captions"]
            assert sample["txt"].decode() == first == first.strip() and first in second


def test_packing_twice_gives_the_same_bytes_and_never_replaces_unasked(coco, monkeypatch):
    make_coco = load_script("make_coco", monkeypatch)
    for out in ("one", "two"):
        make_coco.main(coco_config(make_coco, coco, out))
    one, two = ({p.name: p.read_bytes() for p in (coco / out).iterdir()} for out in ("one", "two"))
    assert one == two
    with pytest.raises(FileExistsError, match="--overwrite"):
        make_coco.main(coco_config(make_coco, coco, "one"))
    make_coco.main(coco_config(make_coco, coco, "one", per_shard=100, overwrite=True))
    assert len(list((coco / "one").iterdir())) == 3, "shards of the earlier, finer run are gone"


def test_coco_errors_say_what_is_missing_and_how_much(coco, monkeypatch):
    make_coco = load_script("make_coco", monkeypatch)
    with pytest.raises(FileNotFoundError, match=r"dataset_coco\.json"):
        make_coco.main(coco_config(make_coco, coco, "x", captions=coco / "none.json"))
    (coco / "other.json").write_text('{"annotations": []}')
    with pytest.raises(ValueError, match=r"not Karpathy's.*'images'"):
        make_coco.main(coco_config(make_coco, coco, "x", captions=coco / "other.json"))
    with pytest.raises(FileNotFoundError, match=r"no folder train2014.*found there"):
        make_coco.main(coco_config(make_coco, coco, "x", images=coco / "val2014"))
    victim = sorted((coco / "val2014").iterdir())[0]
    victim.write_bytes(b"")
    with pytest.raises(ValueError, match=r"0 bytes\) is not a JPEG"):
        make_coco.main(coco_config(make_coco, coco, "x"))
    victim.unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 7 images are missing \{'val2014': 1\}"):
        make_coco.main(coco_config(make_coco, coco, "x"))
    assert not list((coco / "x").iterdir()), "a failed run leaves no shard behind"


@pytest.fixture
def stamps(tmp_path) -> Path:
    """Twelve stamps in Tux Paint's layout: PNG and SVG, some with an effect, one without French."""
    folder = tmp_path / "stamps" / "things"
    folder.mkdir(parents=True)
    for number, sample in enumerate(list(demo_samples()["concepts"].values())[:12]):
        name = sample["txt"].decode()
        base = folder / f"stamp{number}"
        if number % 4:
            Image.open(io.BytesIO(sample["webp"])).convert("RGBA").save(base.with_suffix(".png"))
        else:
            base.with_suffix(".svg").write_text(drawing())
        french = "" if number == 1 else f"fr.utf8=Une image : {name}.\n"
        base.with_suffix(".txt").write_text(f"A {name}.\nde.utf8=Ein Bild.\n{french}", encoding="utf-8")
        tone = np.sin(np.arange(800) * (0.1 + 0.01 * number))
        soundfile.write(folder / f"stamp{number}_desc_fr.ogg", tone, 8000)
        if number % 3 == 0:
            soundfile.write(base.with_suffix(".ogg"), tone[::-1], 8000)
    return tmp_path / "stamps"


def drawing() -> str:
    """An SVG file without a view box, as many stamps are."""
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="3cm" height="2cm">'
    return f'<?xml version="1.0"?>{svg}<circle cx="50" cy="40" r="20" fill="red"/></svg>'


def test_stamps_become_samples_of_picture_text_speech_and_sometimes_effect(stamps, tmp_path, monkeypatch):
    make_speech = load_script("make_speech", monkeypatch)
    config = make_speech.Config(out=tmp_path / "one", stamps=stamps, held_out=2, longest=64)
    make_speech.main(config)
    make_speech.main(make_speech.Config(**{**vars(config), "out": tmp_path / "two"}))
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / out).iterdir()} for out in ("one", "two"))
    assert one == two and set(one) == {f"{split}-000000.tar" for split in ("train", "val", "test")}
    found = {split: samples(tmp_path / "one" / f"{split}-000000.tar") for split in ("train", "val", "test")}
    concepts = {s: {json.loads(v["json"])["concept"] for v in part.values()} for s, part in found.items()}
    assert all(concepts.values()) and not concepts["train"] & (concepts["val"] | concepts["test"])
    together = found["train"] | found["val"] | found["test"]
    assert len(together) == 11, "the stamp without a French text is no sample"
    assert sum("effect.ogg" in sample for sample in together.values()) == 4
    for key, sample in together.items():
        record, number = json.loads(sample["json"]), int(key.removeprefix("things-stamp"))
        speech = stamps / "things" / f"stamp{number}_desc_fr.ogg"
        assert sample["ogg"] == speech.read_bytes() and record["license"] == "GPL-2.0-or-later"
        assert record["captions"]["fr"].startswith("Une image")
        assert record["captions"]["en"] == sample["txt"].decode()
        with Image.open(io.BytesIO(sample["webp"])) as picture:
            assert picture.mode == "RGB" and max(picture.size) == 64
            assert np.asarray(picture)[0, 0].min() > 230


def test_a_folder_without_stamps_is_named(tmp_path, monkeypatch):
    make_speech = load_script("make_speech", monkeypatch)
    with pytest.raises(ValueError, match=r"0 files \*_desc_fr.ogg"):
        make_speech.main(make_speech.Config(out=tmp_path / "out", stamps=tmp_path))


def test_without_debian_tools_the_error_says_what_to_do(tmp_path, monkeypatch):
    make_speech = load_script("make_speech", monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"apt-get is not on PATH.*--stamps"):
        make_speech.main(make_speech.Config(out=tmp_path / "out", packages=tmp_path / "packages"))
