"""The demo shards are what their README says, and the script that made them does what it says."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_members import DATA, SPLITS, demo_samples, load_script, samples

LANGUAGES = set("ar de en es fr hi it ja ko pl pt ru tr zh".split())
LICENSES = {"fluent-3d": "MIT", "fluent-flat": "MIT", "fluent-modern": "MIT", "noto": "Apache-2.0"}


@pytest.fixture(scope="module")
def demo() -> dict[str, dict[str, dict[str, bytes]]]:
    return demo_samples()


@pytest.fixture(scope="module")
def records(demo: dict[str, dict[str, dict[str, bytes]]]) -> dict[str, list[dict]]:
    return {split: [json.loads(sample["json"]) for sample in found.values()] for split, found in demo.items()}


def test_demo_samples_have_a_picture_a_name_and_a_record_in_14_languages(demo):
    for split, found in demo.items():
        for key, sample in found.items():
            assert set(sample) == {"webp", "txt", "json"}, key
            record = json.loads(sample["json"])
            assert sample["txt"].decode() == record["name"] == record["captions"]["en"]
            assert set(record["captions"]) == LANGUAGES and all(record["captions"].values())
            assert record["split"] == split and key.startswith(record["source"] + "-")
            assert record["license"] == LICENSES[record["source"]]
            assert all(isinstance(word, str) for word in record["keywords"])


def test_demo_pictures_are_square_rgb_on_white(demo):
    white = []
    for found in demo.values():
        for sample in found.values():
            with Image.open(io.BytesIO(sample["webp"])) as picture:
                assert picture.size == (112, 112) and picture.mode == "RGB"
                pixels = np.asarray(picture)
            white.append(pixels[[0, 0, -1, -1], [0, -1, 0, -1]].min())
    assert np.min(white) > 200 and np.mean(np.array(white) > 230) > 0.99


def test_no_concept_of_the_held_out_concepts_is_seen_or_named_in_training(records):
    trained = {record["concept"] for record in records["train"]}
    held = {record["concept"] for record in records["concepts"]}
    assert not trained & held
    named = {word for r in records["train"] for word in re.findall(r"[^\W\d_]+", r["name"].lower())}
    assert not {word for word in named if {word, word.removesuffix("s")} & held}
    assert {r["source"] for r in records["concepts"]} == {r["source"] for r in records["train"]}


def test_the_held_out_style_shows_only_trained_names_in_a_style_never_trained_on(records):
    assert {r["name"] for r in records["style"]} <= {r["name"] for r in records["train"]}
    assert not {r["source"] for r in records["style"]} & {r["source"] for r in records["train"]}


def test_the_readme_of_the_demo_counts_right_and_the_shards_are_small(records):
    table = (DATA / "demo" / "README.md").read_text()
    for split, found in records.items():
        counts = (len(found), len({r["name"] for r in found}), len({r["concept"] for r in found}))
        row = next(line for line in table.splitlines() if line.startswith(f"| `{split}-"))
        assert "| " + " | ".join(f"{count:,}" for count in counts) + " |" in row
    assert sum(path.stat().st_size for path in (DATA / "demo").glob("*.tar")) <= 10e6


@pytest.mark.parametrize("name", ["make_demo", "make_coco", "make_speech"])
def test_help_is_printed_by_the_script_itself(name):
    command = [sys.executable, str(DATA / f"{name}.py"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    assert result.returncode == 0 and "--overwrite" in result.stdout


def drawing(color: str) -> bytes:
    circle = f'<circle cx="16" cy="16" r="9" fill="{color}"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{circle}</svg>'.encode()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo("package/" + name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def packages(tmp_path, monkeypatch, demo) -> Path:
    """npm packages of the same layout: forty of the demo's pictures and names, and near-duplicates."""
    make_demo = load_script("make_demo", monkeypatch)
    solid = [(key, s) for key, s in demo["train"].items() if key.startswith("fluent-3d-")][:40]
    taken = {key.removeprefix("fluent-3d-"): sample["webp"] for key, sample in solid}
    names = {key.removeprefix("fluent-3d-"): json.loads(sample["json"])["captions"] for key, sample in solid}
    first = next(iter(taken))
    for code, name in [
        (f"{first}-1f3fd", "toned"),
        ("1f468-200d-1f33e", "man sowing"),
        ("1f9d1-200d-1f33e", "sowing"),
    ]:
        taken[code], names[code] = taken[first], dict.fromkeys(LANGUAGES, name)
    characters = {code: "".join(chr(int(part, 16)) for part in code.split("-")) for code in taken}
    files: dict[str, dict[str, bytes]] = {
        "fluent-3d": {f"assets/{code}-fe0f.webp": webp for code, webp in taken.items()},
        "fluent-flat": {f"assets/{code}.svg": drawing("blue") for code in taken},
        "fluent-modern": {f"assets/{code}svg": drawing("green") for code in taken},
    }
    icons = {f"icon {code}": {"body": '<circle cx="64" cy="64" r="40"/>'} for code in taken}
    files["noto"] = {
        "icons.json": json.dumps({"icons": icons, "width": 128, "height": 128}).encode(),
        "chars.json": json.dumps({code: f"icon {code}" for code in taken}).encode(),
    }
    for package in ("annotations", "annotationsDerived"):
        files[package] = {}
        for language in LANGUAGES:
            entries = {characters[code]: {"tts": [names[code][language]], "default": ["w"]} for code in taken}
            content = {package: {"annotations": entries if package == "annotations" else {}}}
            files[package][f"{package}/{language}/annotations.json"] = json.dumps(content).encode()
    for package, members in files.items():
        name, version, _ = make_demo.PACKAGES[package]
        with tarfile.open(
            tmp_path / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz", "w:gz"
        ) as archive:
            for member, data in members.items():
                add(archive, member, data)
    return tmp_path


def test_the_demo_script_splits_and_writes_the_same_bytes_twice(packages, monkeypatch):
    make_demo = load_script("make_demo", monkeypatch)
    counts = {"train_pairs": 50, "held_out_captions": 5, "concept_pairs": 8, "style_pairs": 20}
    for out in ("one", "two"):
        make_demo.main(make_demo.Config(out=packages / out, packages=packages, **counts))
    one, two = ({p.name: p.read_bytes() for p in (packages / out).iterdir()} for out in ("one", "two"))
    assert one == two and len(one) == 3
    found = {split: samples(packages / "one" / f"{split}-000000.tar") for split in SPLITS}
    assert {split: len(part) for split, part in found.items()} == {"train": 50, "concepts": 8, "style": 20}
    records = {s: [json.loads(sample["json"]) for sample in part.values()] for s, part in found.items()}
    assert not {r["concept"] for r in records["train"]} & {r["concept"] for r in records["concepts"]}
    names = Counter(r["name"] for r in records["train"])
    assert max(names.values()) == 2, "every name once before any is drawn twice"
    drawn = {r["name"] for part in records.values() for r in part}
    assert "sowing" in drawn and not {"toned", "man sowing"} & drawn, "near-duplicates appear once, neutral"
    assert {r["source"] for r in records["train"]} == set(make_demo.TRAINED_STYLES)
    with pytest.raises(ValueError, match="500 pairs were asked for, but there are"):
        make_demo.main(make_demo.Config(out=packages / "x", packages=packages, train_pairs=500))


def test_a_missing_package_without_npm_says_what_to_do(packages, monkeypatch):
    make_demo = load_script("make_demo", monkeypatch)
    next(packages.glob("iconify-json-noto-*.tgz")).unlink()
    monkeypatch.setenv("PATH", str(packages))
    with pytest.raises(FileNotFoundError, match=r"npm is not on PATH.*iconify-json-noto-1.2.9.tgz"):
        make_demo.main(make_demo.Config(out=packages / "x", packages=packages))
