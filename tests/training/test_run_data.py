"""What a run reads can be mixed, cut and accounted for, from its configuration alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import toy
from safetensors.torch import save_file
from small_shards import small_shard

import mmvicreg as mm
from mmvicreg.modalities.modality import modalities_of
from mmvicreg.plan.mixture import Part
from mmvicreg.preparation.check import CheckConfig, check, exclusions
from mmvicreg.shards.subset import holds
from mmvicreg.training.data import make_plan, open_parts, whole
from mmvicreg.training.frozen_features import precompute


def parts_of(config: toy.Config) -> tuple[Part, ...]:
    """Its data sets."""
    return open_parts(config, modalities_of(config))


def config(tmp_path: Path, train: str, **stream: object) -> toy.Config:
    return toy.Config(train=train, out=str(tmp_path / "run"), stream=mm.StreamConfig(**stream))  # type: ignore[arg-type]


def test_a_run_says_what_became_of_its_samples(tmp_path: Path) -> None:
    train = toy.write_shards(tmp_path / "data")
    run = mm.train(config(tmp_path, train), toy.objective)
    found = json.loads((run.folder / "data.json").read_text())
    samples = len(mm.open_index(train))
    assert found["seen"] == run.step * 16
    assert found["unique"] == samples and found["never_seen"] == 0
    assert found["duplicate"] == found["seen"] - samples
    assert found["rejected"] == {} and found["recovered"] == 0


def test_two_data_sets_are_drawn_by_their_weights(tmp_path: Path) -> None:
    first, second = (toy.write_shards(tmp_path / name) for name in ("first", "second"))
    mixed = config(tmp_path, f"{first}::{second}", weights=(3.0, 1.0))
    parts = parts_of(mixed)
    plan = make_plan(parts, mixed, 16)
    split = len(parts[0].index.shards)
    shards = [place for step in range(625) for place in plan.locate(step, range(16)).shard]
    assert sum(shard < split for shard in shards) == 7_500  # exact in every 10,000
    assert len(whole(parts)) == 2 * len(parts[0].index)
    assert mm.train(mixed, toy.objective).step > 0


def test_weights_and_data_sets_must_be_as_many(tmp_path: Path) -> None:
    train = toy.write_shards(tmp_path / "data")
    with pytest.raises(ValueError, match="2 numbers.*1 data sets"):
        mm.train(config(tmp_path, train, weights=(3.0, 1.0)), toy.objective)


def test_a_run_is_not_continued_on_other_shards(tmp_path: Path) -> None:
    """As many samples in as many shards: the order is the same, the data are not."""
    train = toy.write_shards(tmp_path / "data")
    started = config(tmp_path, train)
    mm.train(replace(started, epochs=1.0), toy.objective)
    toy.write_shards(tmp_path / "data", seed=1, missing=5)
    with pytest.raises(ValueError, match=r"are not those .*run was trained on: their fingerprint was"):
        mm.train(replace(started, allow_change=("epochs",)), toy.objective)


@pytest.mark.slow
def test_an_exclusion_list_is_part_of_the_run(tmp_path: Path) -> None:
    train = toy.write_shards(tmp_path / "data")
    listed = exclusions(check(CheckConfig(train)))
    path = tmp_path / "exclude.json"
    path.write_text(json.dumps(listed))
    mm.train(config(tmp_path, train), toy.objective)
    with pytest.raises(ValueError, match="stream.exclude"):
        mm.train(replace(config(tmp_path, train), stream=mm.StreamConfig(exclude=str(path))), toy.objective)


def test_a_rarer_modality_gets_its_share_of_the_rows(tmp_path: Path) -> None:
    train = toy.write_shards(tmp_path / "data", missing=4)  # b in three of four samples
    wanted = config(tmp_path, train, minimum_fraction={"b": 0.9})
    parts = parts_of(wanted)
    plan, index = make_plan(parts, wanted, 100), whole(parts)
    has_b = holds(index, ["b.npy"])
    places = [plan.locate(step, range(100)) for step in range(100)]
    assert sum(has_b[index.starts[at.shard] + at.place].sum() for at in places) == pytest.approx(9000, abs=30)
    run = mm.train(wanted, toy.objective)
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    present = [line["present"]["b"] for line in log if "present" in line]
    assert 0.83 < sum(present) / len(present) / 16 < 0.97


def test_a_modality_that_is_there_often_enough_changes_nothing(tmp_path: Path) -> None:
    train = toy.write_shards(tmp_path / "data")
    plain, asked = config(tmp_path, train), config(tmp_path, train, minimum_fraction={"b": 0.5})
    assert len(parts_of(asked)) == 1
    fingerprints = {make_plan(parts_of(each), each, 16).fingerprint() for each in (plain, asked)}
    assert len(fingerprints) == 1


def test_shares_that_cannot_be_had_are_said(tmp_path: Path) -> None:
    train = toy.write_shards(tmp_path / "data", missing=4)
    with pytest.raises(ValueError, match=r"minimum_fraction names \['c'\]; the modalities are \['a', 'b'\]"):
        mm.train(config(tmp_path, train, minimum_fraction={"c": 0.5}), toy.objective)
    with pytest.raises(ValueError, match="between 0 and 1"):
        mm.train(config(tmp_path, train, minimum_fraction={"b": 1.5}), toy.objective)
    lacking = replace(config(tmp_path, train, minimum_fraction={"b": 0.5}), b=toy.Numbers("c.npy"))
    with pytest.raises(ValueError, match=r"no sample of 96 has any of c.npy; members are a.npy, b.npy, json"):
        mm.train(lacking, toy.objective)


def stored_features(tmp_path: Path, train: str, weights: Path) -> np.ndarray:
    """What is kept under tmp_path / "kept" of one crop of every image."""
    image = mm.ImageModality(encoder="timm/test_resnet", size=32, frozen=True, weights=str(weights))
    reader = precompute(
        image,
        image.branch().eval(),
        mm.open_index(train),
        name="image",
        draws=1,
        seed=0,
        folder=tmp_path / "kept",
        device=torch.device("cpu"),
        threads=1,
        progress=lambda _: None,
    )
    assert {"features.npy", "present.npy", "done.json"} == {
        path.name for path in Path(reader.folder).iterdir()
    }
    return np.load(Path(reader.folder) / "features.npy")


def test_representations_are_computed_again_where_a_file_of_weights_has_another_content(
    tmp_path: Path,
) -> None:
    train, found = small_shard(tmp_path / "train-000000.tar", 5), []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        tensors = timm.create_model("test_resnet", num_classes=0).state_dict()
        save_file(tensors, tmp_path / "weights.safetensors")
        found.append(stored_features(tmp_path, train, tmp_path / "weights.safetensors"))
    assert not np.allclose(found[0], found[1]) and np.array_equal(found[0], found[2])
    assert len(list((tmp_path / "kept").iterdir())) == 2  # kept twice, and nothing unfinished beside them
